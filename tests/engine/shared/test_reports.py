"""What agents report of themselves is on record as that, durably, and the same batch once."""

from __future__ import annotations

from typing import Any

import pytest

from tappass.errors import TapPassConfigError
from tappass.wire.service import Receipt, Report
from tests.engine.shared.servers import Servers, question

AT = "2020-01-31T09:30:00Z"


def report(event_type: str = "job.done", **fields: Any) -> Report:
    return Report(event_type=event_type, **{"occurred_at": AT, **fields})


def test_a_report_is_recorded_as_one_and_its_details_as_content(servers: Servers) -> None:
    session_id = servers.open()
    told = [
        report(details={"note": "to ann@acme.com", "many": ["x", "bob@acme.com"]}),
        report("call.decided", session_id=session_id, task_id="tsk_1", agent_id="crew"),
        report(details={"n": 1}, agent_id=servers.agent),
    ]
    assert servers.b.report(told, agent_uuid=servers.agent) == Receipt(accepted=3, duplicates=0)
    first, second, third = servers.events("reported.")
    assert (first.type, first.at) == ("reported.job.done", "2020-01-31T09:30:00.000000Z")
    assert {each.agent_uuid for each in (first, second, third)} == {servers.agent}
    assert (second.type, second.session_id, second.task_id) == ("reported.call.decided", session_id, "tsk_1")
    assert second.audit_url.endswith(session_id)
    assert [each.details for each in (first, second, third)] == [{}, {}, {}]
    read = servers.a.store.read
    assert read.content(first.seq) == b'{"note":"to [EMAIL]","many":["x","[EMAIL]"]}'
    assert (read.content(second.seq), read.content(third.seq)) == (None, b'{"n":1}')


def test_the_same_batch_under_the_same_key_is_recorded_once(servers: Servers) -> None:
    told, other = [report(), report("job.failed")], servers.register("other")
    assert servers.a.report(told, agent_uuid=servers.agent, key="k") == Receipt(accepted=2, duplicates=0)
    assert servers.b.report(told, agent_uuid=servers.agent, key="k") == Receipt(accepted=0, duplicates=2)
    assert servers.b.report(told, agent_uuid=other, key="k").accepted == 2
    assert servers.b.report(told, agent_uuid=servers.agent, key="l").accepted == 2
    assert servers.b.report(told[:1], agent_uuid=servers.agent, key="k").accepted == 1
    assert servers.a.report(told, agent_uuid=servers.agent).accepted == 2
    assert servers.count("reported.job.done") == 5


@pytest.mark.parametrize(
    "wrong",
    [
        report(""),
        report("Decided"),
        report("a" * 65),
        report("a b"),
        report("a\n"),
        report(occurred_at="yesterday"),
        report(occurred_at=""),
        report(agent_id="somebody"),
        report(task_id="\x1b"),
        report(task_id="t" * 201),
        report(session_id="ses_unknown"),
    ],
)
def test_what_is_no_report_of_this_agent_is_refused_with_its_batch(servers: Servers, wrong: Report) -> None:
    with pytest.raises(TapPassConfigError):
        servers.a.report([report(), wrong], agent_uuid=servers.agent, key="k")
    assert servers.events("reported.") == []


def test_a_report_goes_into_no_session_of_another_agent(servers: Servers) -> None:
    session_id, other = servers.open(), servers.register("other")
    with pytest.raises(TapPassConfigError, match="is not open on this plane"):
        servers.b.report([report(session_id=session_id)], agent_uuid=other)


def test_a_report_of_an_ending_ends_no_call(servers: Servers) -> None:
    session_id = servers.open()
    asked = question(session_id)
    servers.a.decide(asked)
    servers.a.report([report("call.ended", session_id=session_id, task_id=asked.task_id)], agent_uuid=servers.agent)
    assert [call.task_id for call in servers.a.store.read.open_calls(session_id=session_id)] == [asked.task_id]


def test_no_reports_are_none(servers: Servers) -> None:
    assert servers.a.report([], agent_uuid=servers.agent, key="k") == Receipt(accepted=0, duplicates=0)
