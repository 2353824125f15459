"""Sessions: what is inside what, what is inherited, and how each one ends."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import textwrap
import threading
import weakref

import anyio
import msgspec
import pytest

from tappass import (
    PolicyBlockError,
    RedactionApplied,
    TapPassConfigError,
    current_session,
    governed,
    tappass_session,
    tool,
)
from tappass.testing import MemoryPlane
from tests.conftest import ROOT
from tests.forks import in_child

MASK = """
    version: 1
    rules:
      - {id: mask, tool: crm, effect: redact, fields: [result], kinds: [EMAIL]}
"""


@tool(name="crm")
def crm() -> str:
    return "mail ann@acme.com"


def content(plane, event):
    return msgspec.json.decode(plane.plane.engine.store.read.content(event.seq))


@pytest.mark.parametrize(
    ("outer", "inner", "own", "raises"),
    [
        (None, None, None, False),
        (True, None, None, True),
        (True, False, None, False),
        (False, True, None, True),
        (True, True, False, False),
        (True, False, True, True),
        (None, None, True, True),
        (False, None, None, False),
    ],
)
def test_the_innermost_option_wins_and_is_inherited(outer, inner, own, raises, tappass_plane):
    tappass_plane.policy(MASK)
    look = tool(name="crm", raise_on_redaction=own)(crm.__wrapped__) if own is not None else crm
    with (
        tappass_session(raise_on_redaction=outer, respect_breakglass=outer),
        tappass_session(raise_on_redaction=inner, respect_breakglass=inner) as session,
    ):
        assert session.respect_breakglass is bool(outer if inner is None else inner)
        if raises:
            with pytest.raises(RedactionApplied):
                look()
        else:
            assert look() == "mail [EMAIL]"


def test_governed_inherits_options_and_may_take_them_back(tappass_plane):
    tappass_plane.policy(MASK)

    @governed
    def inherits() -> str:
        return crm()

    @governed(raise_on_redaction=False)
    def takes_back() -> str:
        return crm()

    with tappass_session(raise_on_redaction=True):
        with pytest.raises(RedactionApplied):
            inherits()
        assert takes_back() == "mail [EMAIL]"


def test_nested_sessions_are_children_and_siblings_are_not(tappass_plane, audit_events):
    with tappass_session(name="outer", agent="ann") as outer:
        with tappass_session(name="first") as first:
            with tappass_session(name="inmost") as inmost:
                crm()
            assert inmost.parent == first.session_id
        with tappass_session(name="second", agent="bob") as second:
            pass
        assert first.parent == second.parent == outer.session_id
        assert (first.agent, inmost.agent, second.agent) == ("ann", "ann", "bob")
        assert first.agent_uuid == outer.agent_uuid != second.agent_uuid
    with tappass_session(name="after") as after:
        assert after.parent == ""
        assert after.agent == "default"
    (decided,) = audit_events(type="call.decided")
    assert decided.session_id == inmost.session_id
    assert decided.parent == first.session_id


def test_a_session_on_another_plane_inside_is_no_child_and_its_calls_are_decided_there(tappass_plane, audit_events):
    from tappass.session.registry import registry

    other = MemoryPlane("version: 1\nrules:\n  - {id: no, tool: crm, effect: block}")
    registry.plane(other.url, lambda: other.plane)
    with tappass_session(raise_on_redaction=True) as outer:
        with tappass_session(url=other.url) as inner:
            assert inner.parent == ""
            assert inner.raise_on_redaction
            assert inner.plane is other.plane
            with pytest.raises(PolicyBlockError) as caught:
                crm()
            assert caught.value.session_id == inner.session_id
            with tappass_session() as inmost:
                assert inmost.plane is other.plane
                assert inmost.parent == inner.session_id
        assert current_session() is outer
        assert crm() == "mail ann@acme.com"
        there = tool(name="there", url=other.url)(lambda: None)
        there()
    assert [e.name for e in audit_events(type="call.decided")] == ["crm"]
    assert [e.name for e in other.events(type="call.decided")] == ["crm", "there"]


def test_children_inherit_observe_and_may_only_tighten(tappass_plane, audit_events):
    tappass_plane.policy(
        "version: 1\nallow_observe: true\nrules:\n  - {id: no, tool: crm, effect: block}",
    )
    with tappass_session(mode="observe") as outer, tappass_session() as child:
        assert (outer.mode, child.mode) == ("observe", "observe")
        crm()
        with tappass_session(mode="enforce") as strict, tappass_session() as grandchild:
            assert (strict.mode, grandchild.mode) == ("enforce", "enforce")
            with pytest.raises(PolicyBlockError):
                crm()
    assert [(e.outcome, e.would_be) for e in audit_events(type="call.decided")] == [("allow", "block"), ("block", "")]
    with pytest.raises(TapPassConfigError, match="mode 'watch' is unknown"), tappass_session(mode="watch"):
        pass


def test_a_call_in_a_closed_session_is_refused_and_does_not_run(tappass_plane, audit_events):
    ran = []
    note = tool(name="note")(lambda: ran.append(1))

    async def main() -> None:
        released = anyio.Event()

        async def late() -> None:
            await released.wait()
            with pytest.raises(TapPassConfigError, match="is not open on this plane, so nothing can run in it"):
                note()

        async with anyio.create_task_group() as tasks:
            async with tappass_session():
                tasks.start_soon(late)
                await anyio.lowlevel.checkpoint()
            released.set()

    anyio.run(main)
    assert ran == []
    assert audit_events(type="call.decided") == []


def test_a_call_that_ends_after_its_session_is_settled(tappass_plane, audit_events):
    entered, leave = threading.Event(), threading.Event()

    @tool(name="slow")
    def slow() -> str:
        entered.set()
        assert leave.wait(10)
        return "done"

    from tappass import carry

    got = []
    with tappass_session() as session:
        thread = threading.Thread(target=carry(lambda: got.append(slow())))
        thread.start()
        assert entered.wait(10)
    leave.set()
    thread.join()
    assert got == ["done"]
    assert [(e.session_id, e.status) for e in audit_events(type="call.ended")] == [(session.session_id, "completed")]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_session_is_closed_as_failed(backend, tappass_plane, audit_events):
    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with tappass_session():
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert current_session() is None

    anyio.run(main, backend=backend)
    assert [e.status for e in audit_events(type="session.closed")] == ["failed"]


def test_a_session_whose_task_is_cancelled_at_any_moment_does_not_stay_open(tappass_plane, audit_events):
    async def work() -> None:
        async with tappass_session():
            await asyncio.sleep(60)

    async def main() -> None:
        for delay in [0, 0, 0.0001, 0.0003, 0.001, 0.003] * 5:
            task = asyncio.get_running_loop().create_task(work())
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert len(audit_events(type="session.opened")) == len(audit_events(type="session.closed"))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_large_result_of_a_cancelled_call_is_settled(backend, tappass_plane, audit_events):
    tappass_plane.policy(MASK)

    async def main() -> None:
        with anyio.CancelScope() as scope:

            @tool(name="crm")
            async def large() -> str:
                scope.cancel()
                return "x" * 100_000

            await large()

    anyio.run(main, backend=backend)
    assert [e.status for e in audit_events(type="call.ended")] == ["completed"]


def test_metadata_is_kept_as_content_is_and_read_by_rules(tappass_plane, audit_events):
    tappass_plane.policy("""
        version: 1
        rules:
          - {id: night, tool: crm, when: 'session.metadata.shift == "night"', effect: block}
    """)
    night = tappass_session(name="for ann@acme.com", metadata={"shift": "night", "to": ["ann@acme.com"]})
    with night, pytest.raises(PolicyBlockError):
        crm()
    with tappass_session(metadata={"shift": "day"}):
        crm()
    opened = audit_events(type="session.opened")[0]
    assert content(tappass_plane, opened) == {
        "name": "for [EMAIL]",
        "metadata": {"shift": "night", "to": ["[EMAIL]"]},
        "agent": "default",
    }
    assert b"acme" not in msgspec.json.encode(opened)


@pytest.mark.parametrize(("kept", "stored"), [("none", None), ("full", {"to": "ann@acme.com"})])
def test_metadata_is_stored_as_the_settings_say(kept, stored, tappass_plane, audit_events):
    tappass_plane.settings(f'[audit]\ncontent = "{kept}"')
    with tappass_session(metadata={"to": "ann@acme.com"}):
        pass
    body = tappass_plane.plane.engine.store.read.content(audit_events(type="session.opened")[0].seq)
    assert (json.loads(body)["metadata"] if body else None) == stored


@pytest.mark.parametrize("bad", [object(), float("nan"), "\ud800", {1: 2}])
def test_metadata_that_cannot_be_recorded_opens_no_session(bad, tappass_plane, audit_events):
    with (
        pytest.raises(TapPassConfigError, match=r"metadata cannot be rec.*`x`"),
        tappass_session(metadata={"x": bad}),
    ):
        pass
    assert current_session() is None
    assert audit_events(type="session.opened") == []


@pytest.mark.parametrize(
    "name", ["ann", "Ann O'Hara", "a" * 5000, "тест ☃", 'x"; DROP TABLE session; --', "a\nb\x1b[31m"]
)
def test_an_agent_and_a_session_may_have_any_name(name, tappass_plane, audit_events):
    with tappass_session(name=name, agent=name) as session:
        crm()
    assert (session.name, session.agent) == (name, name)
    with tappass_session(agent=name) as again:
        assert again.agent_uuid == session.agent_uuid
    assert len({e.agent_uuid for e in audit_events(type="call.decided")}) == 1


def test_the_implicit_session_is_opened_by_the_first_call_and_closed_at_exit(tmp_path):
    program = """
        from tappass import tool, current_session

        @tool
        def one(): return current_session()

        assert one() is None
        one()
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    from tappass.plane.connect import connect

    events = list(connect().engine.store.read.all_events())
    mine = [e for e in events if e.session_id]
    assert [e.type for e in mine if e.type.startswith("session")] == ["session.opened", "session.closed"]
    assert (mine[0].kind, mine[-1].type, mine[-1].status) == ("implicit", "session.closed", "completed")
    assert len([e for e in mine if e.type == "call.ended"]) == 2


def test_a_fork_opens_an_implicit_session_of_its_own(tmp_path):
    note = tool(name="note")(lambda: None)
    note()

    def child():
        note()
        from tappass.session.registry import registry

        registry.shutdown()

    in_child(child)
    note()
    from tappass.plane.connect import connect

    plane = connect()
    plane.engine.store.flush()
    sessions = [e.session_id for e in plane.engine.store.read.all_events() if e.type == "call.decided"]
    assert len(sessions) == 3
    assert sessions[0] == sessions[2] != sessions[1]


def test_a_session_is_not_kept_alive_by_its_refusals(tappass_plane):
    tappass_plane.policy("version: 1\nrules:\n  - {id: no, tool: hold, effect: block}")

    class Large:
        pass

    hold = tool(name="hold", encoders={"what": lambda it: 1})(lambda what: None)

    def attempt() -> weakref.ref[Large]:
        large = Large()
        with pytest.raises(PolicyBlockError):
            hold(large)
        return weakref.ref(large)

    with tappass_session():
        first = attempt()
        gc.collect()
        assert first() is None, "a latched refusal holds the frames it came through"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": 3}, "`name` is text, not int"),
        ({"agent": None}, "`agent` is text, not NoneType"),
        ({"mode": True}, "`mode` is text, not bool"),
        ({"metadata": "shift"}, "`metadata` is a dict, not str"),
        ({"metadata": {"a": object()}}, r"`a` \(policy cannot see into a object\)"),
        ({"metadata": {1: "a"}}, "`1`"),
    ],
)
def test_a_session_opened_with_the_wrong_types_says_which(options, said, tappass_plane, audit_events):
    with pytest.raises(TapPassConfigError, match=said), tappass_session(**options):
        pass
    assert audit_events() == [] or all(e.type.startswith("policy.") for e in audit_events())
