"""What an outbox delivers is recorded once and in order, however often and late it comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tappass.errors import TapPassConfigError
from tappass.wire.chat import Usage
from tappass.wire.decisions import Action, DecisionRequest
from tappass.wire.findings import Finding
from tappass.wire.obligations import ScanResult
from tappass.wire.service import Closing, Ended, Entry, Receipt
from tappass.wire.sessions import Opening
from tests.engine.shared.servers import ABLE, POLICY, Servers, ending, question

AT = "2020-01-31T09:30:00.000001Z"
BUDGETED = POLICY + "budgets: {day: {llm_tokens: 1000}}\n"


def ended(session_id: str, task_id: str, at: str = AT, **fields: Any) -> Ended:
    return Ended(ending=ending(session_id, task_id, **fields), at=at)


def decided(servers: Servers, session_id: str, calls: int) -> list[str]:
    asked = [question(session_id) for _ in range(calls)]
    for index, each in enumerate(asked):
        (servers.a, servers.b)[index % 2].decide(each)
    return [each.task_id for each in asked]


def test_a_batch_is_recorded_in_its_order_and_once(servers: Servers) -> None:
    session_id = servers.open()
    tasks = decided(servers, session_id, 3)
    batch: list[Entry] = [ended(session_id, task) for task in tasks]
    batch.append(Closing(session_id=session_id, status="completed", openings=1))
    assert servers.b.settle_all(batch, agent_uuid=servers.agent) == Receipt(accepted=4, duplicates=0)
    assert servers.a.settle_all(batch, agent_uuid=servers.agent) == Receipt(accepted=0, duplicates=4)
    assert servers.b.settle_all(batch[:2] * 2, agent_uuid=servers.agent) == Receipt(accepted=0, duplicates=4)
    told = [(event.type, event.task_id) for event in servers.events() if event.type in ("call.ended", "session.closed")]
    assert told == [*(("call.ended", task) for task in tasks), ("session.closed", "")]
    with pytest.raises(TapPassConfigError, match="is not open"):
        servers.a.decide(question(session_id))


def test_what_comes_twice_in_one_batch_is_recorded_once(servers: Servers) -> None:
    session_id = servers.open()
    [task] = decided(servers, session_id, 1)
    close = Closing(session_id=session_id, status="completed")
    batch: list[Entry] = [ended(session_id, task), ended(session_id, task), close, close]
    assert servers.b.settle_all(batch, agent_uuid=servers.agent) == Receipt(accepted=2, duplicates=2)
    assert (servers.count("call.ended"), servers.count("session.closed")) == (1, 1)


def test_an_ending_keeps_the_time_it_had_but_none_to_come(servers: Servers) -> None:
    session_id = servers.open()
    tasks = decided(servers, session_id, 4)
    times = [AT, "2020-01-31T10:30:00+01:00", "2999-01-01T00:00:00Z", "yesterday"]
    batch = [ended(session_id, task, at) for task, at in zip(tasks, times, strict=True)]
    servers.a.settle_all(batch, agent_uuid=servers.agent)
    first, second, *rest = (event.at for event in servers.events("call.ended"))
    assert (first, second) == (AT, "2020-01-31T09:30:00.000000Z")
    opened = servers.events("session.opened")[0].at
    assert all(opened <= at < "2999" for at in rest)


def test_a_poisonous_entry_stops_nothing_behind_it(servers: Servers) -> None:
    other = servers.register("other")
    mine, theirs = servers.open(), servers.a.open(Opening(), other).session_id
    [task] = decided(servers, mine, 1)
    asked = question(theirs)
    servers.a.decide(asked)
    wild = Finding(kind="X" * 9999, start=-5, end=10**30, where="/no/such/place")
    batch: list[Entry] = [
        ended("ses_unknown", "tsk_1"),
        ended(theirs, asked.task_id),
        ended(mine, task, status="exploded"),
        ended(mine, "\x00" * 300),
        Closing(session_id=mine, status="melted"),
        Closing(session_id="ses_unknown", status="completed"),
        Closing(session_id=theirs, status="completed"),
        ended(
            mine,
            task,
            duration_us=-(10**30),
            error_type="E" * 999,
            result={"a": "b"},
            findings=(wild,),
            redacted=("\x1b[2J",),
            scan=ScanResult(redact=("NO_SUCH_KIND",)),
            usage=Usage(prompt_tokens=10**30, completion_tokens=-1),
        ),
    ]
    assert servers.a.settle_all(batch, agent_uuid=servers.agent) == Receipt(accepted=8, duplicates=0)
    assert servers.b.settle_all(batch, agent_uuid=servers.agent) == Receipt(accepted=0, duplicates=8)
    [done] = servers.events("call.ended")
    assert (done.task_id, done.duration_us, done.tokens) == (task, 0, ())
    rejected = servers.events("delivery.rejected")
    assert [event.details["why"] for event in rejected] == [
        "session-unknown",
        "session-unknown",
        "malformed",
        "malformed",
        "status-unknown",
        "session-unknown",
        "session-unknown",
    ]
    # Nobody writes into a session that is not theirs, not even that they tried.
    assert not any(event.session_id or event.task_id for event in rejected)
    assert servers.count("session.closed") == 0


def test_an_ending_that_comes_after_its_session_was_closed_is_recorded(servers: Servers) -> None:
    session_id = servers.open()
    [task] = decided(servers, session_id, 1)
    servers.a.close(session_id, "completed")
    assert servers.start().settle_all([ended(session_id, task)], agent_uuid=servers.agent).accepted == 1


def test_a_close_from_before_a_reopening_is_a_duplicate(servers: Servers) -> None:
    session_id = servers.open()
    servers.a.close(session_id, "suspended")
    servers.b.sessions.reopen(session_id)
    stale: list[Entry] = [Closing(session_id=session_id, status="completed", openings=1)]
    assert servers.a.settle_all(stale, agent_uuid=servers.agent) == Receipt(accepted=0, duplicates=1)
    assert servers.a.decide(question(session_id)).outcome == "allow"


def test_a_batch_that_fails_on_its_way_leaves_nothing_and_is_recorded_later(servers: Servers) -> None:
    session_id = servers.open()
    tasks = decided(servers, session_id, 3)
    batch: list[Entry] = [ended(session_id, task) for task in tasks]
    store, writes = servers.a.store, 0
    run = store.run

    def broken(fn: Callable[[Any], Any], **_: Any) -> Any:
        def failing(tx: Any) -> None:
            fn(tx)
            raise ConnectionAbortedError

        return run(failing)

    store.run = broken  # type: ignore[method-assign]
    with pytest.raises(ConnectionAbortedError):
        servers.a.settle_all(batch, agent_uuid=servers.agent)
    store.run = run  # type: ignore[method-assign]
    assert servers.count("call.ended") == writes
    assert servers.b.settle_all(batch, agent_uuid=servers.agent) == Receipt(accepted=3, duplicates=0)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_each_ending_is_recorded_once_and_in_order_however_it_is_delivered(
    servers: Servers, data: st.DataObject
) -> None:
    """A sender sends in order, and sends again what it heard nothing of: to any server, with what came since."""
    queue: list[Entry] = []
    tasks: dict[str, list[str]] = {}
    for _ in range(2):
        session_id = servers.open()
        tasks[session_id] = decided(servers, session_id, data.draw(st.integers(1, 4)))
        queue += [ended(session_id, task) for task in tasks[session_id]]
        queue.append(Closing(session_id=session_id, status="completed", openings=1))

    def deliver(begin: int, end: int) -> int:
        server = data.draw(st.sampled_from([servers.a, servers.b]))
        return server.settle_all(queue[begin:end], agent_uuid=servers.agent).accepted

    sent, accepted = 0, 0
    while sent < len(queue):
        for _ in range(data.draw(st.integers(0, 2))):
            accepted += deliver(data.draw(st.integers(0, sent)), data.draw(st.integers(sent, len(queue))))
        size = data.draw(st.integers(1, 4))
        accepted += deliver(sent, sent + size)
        sent += size
    assert accepted == len(queue)
    assert deliver(data.draw(st.integers(0, len(queue) - 1)), len(queue)) == 0
    for session_id, expected in tasks.items():
        mine = [event for event in servers.events() if event.session_id == session_id]
        assert [event.task_id for event in mine if event.type == "call.ended"] == expected
        assert [event.type for event in mine].count("session.closed") == 1
        assert mine[-1].type == "session.closed"


def test_a_reservation_is_released_by_the_server_that_hears_of_the_end(servers: Servers) -> None:
    metered = servers.start(policy=BUDGETED)
    session_id = servers.open(metered)
    arguments = {"messages": [{"role": "user", "content": "hi"}], "parameters": {"max_tokens": 50}}
    action = Action(kind="llm", name="m", arguments=arguments)
    asked = DecisionRequest(action=action, session_id=session_id, task_id="tsk_1", capabilities=ABLE)
    assert metered.decide(asked).outcome == "allow"
    told = ended(session_id, asked.task_id, usage=Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7))
    for _ in range(2):
        servers.start(policy=BUDGETED).settle_all([told], agent_uuid=servers.agent)
    rows = metered.store.read.query("SELECT scope, used FROM budget WHERE org_id = ?", ("org_local",))
    assert [tuple(row) for row in rows] == [("day", 7)]
