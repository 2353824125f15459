"""A session's record in parts: together they are the whole, and no part reads more than its share."""

from __future__ import annotations

from tappass import tappass_session, tool
from tappass.engine.timeline import CallLine, Timeline, timeline
from tappass.testing import MemoryPlane, memory_plane

POLICY = "version: 1\nrules: [{id: seen, tool: tick, when: args.number >= 0, effect: allow}]"


def recorded(plane: MemoryPlane) -> str:
    @tool
    def tick(number: int) -> None: ...

    with tappass_session(name="outer") as session:
        for number in range(25):
            tick(number)
            if number % 10 == 4:
                with tappass_session(name=f"inner {number}"):
                    for inner in range(8):
                        tick(inner)
    return session.session_id


def names(told: Timeline) -> list[str]:
    return [entry.task_id if isinstance(entry, CallLine) else entry.session.session_id for entry in told.entries]


def calls_in(told: Timeline) -> int:
    return len(told.calls) + sum(calls_in(child) for child in told.children)


def test_parts_together_are_the_whole_in_order() -> None:
    with memory_plane(POLICY) as plane:
        session_id, read = recorded(plane), plane.plane.engine.store.read
        plane.events()
        whole = timeline(read, session_id)
        assert whole is not None
        assert (len(whole.entries), whole.more) == (28, False)
        for limit in (1, 3, 7, 27, 28, 100):
            found: list[str] = []
            part = timeline(read, session_id, limit=limit)
            while part is not None:
                assert len(part.entries) <= limit
                assert all(call.status == "completed" for call in part.calls)
                found += names(part)
                part = timeline(read, session_id, after=part.last_seq, limit=limit) if part.more else None
            assert found == names(whole)


def test_children_share_what_a_part_may_show() -> None:
    with memory_plane(POLICY) as plane:
        session_id, read = recorded(plane), plane.plane.engine.store.read
        plane.events()
        part = timeline(read, session_id, limit=28)
        assert part is not None
        assert calls_in(part) == 25 + 3 * 8
        small = timeline(read, session_id, limit=6)
        assert small is not None
        (child,) = small.children
        assert (len(child.calls), child.more) == (6, True)
        assert child.session.calls == 8, "the counts are of all of it"


def test_a_call_names_where_its_rules_are_written() -> None:
    with memory_plane(POLICY) as plane:
        read = plane.plane.engine.store.read
        told = timeline(read, recorded(plane))
        assert told is not None
        assert (told.calls[0].rules, told.calls[0].sources) == (("seen",), ("policy.yaml:2",))


def test_another_organisations_session_is_not_there() -> None:
    with memory_plane(POLICY) as plane:
        session_id = recorded(plane)
        assert timeline(plane.plane.engine.store.read, session_id, org_id="org_other") is None
