"""Two servers over one database: a call may be asked for, let run, ended and closed at any of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tappass.engine.engine import Engine
from tappass.engine.leaves import ORG
from tappass.engine.store.port import Tx
from tappass.errors import TapPassConfigError
from tappass.wire.obligations import ScanResult
from tappass.wire.sessions import Opening
from tests.engine.shared.servers import ADA, BOB, Servers, ending, question


def test_a_call_is_opened_decided_and_ended_anywhere_and_ends_once(servers: Servers) -> None:
    session_id = servers.open(servers.a, metadata={"user": "ann@acme.com"})
    asked = question(session_id)
    assert servers.b.decide(asked).outcome == "allow"
    for _ in range(2):
        servers.a.settle(ending(session_id, asked.task_id), durable=True)
    servers.b.settle(ending(session_id, asked.task_id), durable=True)
    [ended] = servers.events("call.ended")
    assert (ended.task_id, ended.agent_uuid) == (asked.task_id, servers.agent)


def test_an_ending_arrives_at_a_server_that_started_since(servers: Servers) -> None:
    session_id = servers.open()
    asked = question(session_id)
    servers.a.decide(asked)
    servers.start().settle(ending(session_id, asked.task_id), durable=True)
    assert servers.count("call.ended") == 1


def test_a_result_is_inspected_by_a_server_that_knows_nothing_of_the_session_yet(servers: Servers) -> None:
    session_id = servers.open()
    asked = question(session_id)
    servers.a.decide(asked)
    told = ending(session_id, asked.task_id, scan=ScanResult(redact=("EMAIL",)), result="to ann@acme.com")
    settlement = servers.b.settle(told, durable=True)
    assert [made.kind for made in settlement.redactions] == ["EMAIL"]


def test_what_was_never_let_run_has_no_ending(servers: Servers) -> None:
    session_id, other = servers.open(), servers.open()
    blocked, allowed = question(session_id, "wipe"), question(session_id)
    assert servers.a.decide(blocked).outcome == "block"
    servers.a.decide(allowed)
    for server in (servers.a, servers.b):
        server.settle(ending(session_id, blocked.task_id), durable=True)
        server.settle(ending(session_id, "tsk_never"), durable=True)
        server.settle(ending(other, allowed.task_id), durable=True)
    assert servers.count("call.ended") == 0


def test_metadata_is_the_same_at_every_server_and_after_reopening(servers: Servers) -> None:
    session_id = servers.open(servers.a, metadata={"user": "ann@acme.com"})
    assert servers.b.decide(question(session_id, "greet")).outcome == "block"
    servers.b.close(session_id, "suspended")
    servers.a.sessions.reopen(session_id)
    for server in (servers.a, servers.b, servers.start()):
        assert server.decide(question(session_id, "greet")).outcome == "block"


def test_metadata_is_kept_as_content_is_once_the_session_has_ended(servers: Servers) -> None:
    session_id = servers.open(servers.a, metadata={"user": "ann@acme.com"})
    servers.b.close(session_id, "completed")
    row = servers.a.store.read.row("SELECT metadata FROM session WHERE session_id = ?", (session_id,))
    assert row is not None
    assert bytes(row[0]) == b'{"user":"[EMAIL]"}'


def test_erasing_what_a_session_was_opened_with_erases_its_metadata(servers: Servers) -> None:
    session_id = servers.open(servers.a, metadata={"user": "ann@acme.com"})
    servers.a.store.erase_content([event.seq for event in servers.events("session.opened")])
    row = servers.a.store.read.row("SELECT metadata FROM session WHERE session_id = ?", (session_id,))
    assert row is not None
    assert row[0] is None
    # A rule reads what is not there any more: that blocks.
    assert servers.start().decide(question(session_id, "greet")).outcome == "block"


def test_a_session_closed_at_one_server_is_closed_at_the_other(servers: Servers) -> None:
    session_id = servers.open(servers.a)
    assert servers.a.decide(question(session_id)).outcome == "allow"
    assert servers.b.close(session_id, "completed")
    for _ in range(2):
        with pytest.raises(TapPassConfigError, match="is not open on this plane"):
            servers.a.decide(question(session_id))
    assert servers.count("call.decided") == 1


def test_closing_twice_is_recorded_once(servers: Servers) -> None:
    session_id = servers.open(servers.a)
    assert servers.b.close(session_id, "completed")
    assert not servers.a.close(session_id, "completed")
    assert not servers.b.close(session_id, "failed")
    assert [event.status for event in servers.events("session.closed")] == ["completed"]


def test_a_close_from_before_a_reopening_closes_nothing(servers: Servers) -> None:
    session_id = servers.open(servers.a)
    servers.a.close(session_id, "suspended", openings=1)
    reopened = servers.b.sessions.reopen(session_id)
    assert reopened.record.openings == 2
    assert not servers.a.close(session_id, "failed", openings=1)
    assert servers.a.decide(question(session_id)).outcome == "allow"
    assert servers.a.close(session_id, "completed", openings=2)


def test_a_session_stays_under_its_policy_and_one_that_is_reopened_is_under_the_new_one(servers: Servers) -> None:
    session_id = servers.open(servers.a)
    before = servers.a.own(session_id, servers.agent).record.pipeline_uuid
    changed = servers.start(policy="version: 1\nrules: [{id: all, tool: '*', effect: block}]\n")
    assert changed.open(Opening(), servers.agent).pipeline_uuid != before
    decision = changed.decide(question(session_id))
    assert (decision.outcome, decision.correlation.pipeline_uuid) == ("allow", before)
    changed.close(session_id, "suspended")
    changed.sessions.reopen(session_id)
    # The server that knows it under the old policy finds out in the deciding transaction.
    assert servers.a.decide(question(session_id)).outcome == "block"


def test_an_id_is_opened_once_by_many_at_once(servers: Servers) -> None:
    barrier = threading.Barrier(6)

    def open_(server: Engine) -> str:
        barrier.wait(10)
        return server.open(Opening(id="ses_mine"), servers.agent).session_id

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(open_, [servers.a, servers.b] * 3)) == {"ses_mine"}
    assert servers.count("session.opened") == 1


def test_an_id_that_was_closed_opens_again_on_the_record(servers: Servers) -> None:
    servers.open(servers.a, id="ses_mine")
    servers.a.close("ses_mine", "completed")
    assert servers.open(servers.b, id="ses_mine") == "ses_mine"
    assert servers.open(servers.a, id="ses_mine") == "ses_mine"
    assert [event.type for event in servers.events("session.")] == [
        "session.opened",
        "session.closed",
        "session.reopened",
    ]


def test_a_key_opens_sessions_of_its_own_agent_alone(servers: Servers) -> None:
    other = servers.register("other")
    with pytest.raises(TapPassConfigError, match="the key shown is the agent `other`'s"):
        servers.a.open(Opening(agent="crew"), other)
    record = servers.a.open(Opening(agent="other"), other)
    assert (record.agent, record.agent_uuid) == ("other", other)
    with pytest.raises(TapPassConfigError, match="there is no agent"):
        servers.a.open(Opening(), "nobody")
    with pytest.raises(TapPassConfigError, match="is not open on this plane"):
        servers.b.open(Opening(parent=record.session_id), servers.agent)
    assert servers.b.open(Opening(parent=record.session_id), other).parent == record.session_id


def test_nobody_learns_whether_a_session_is_unknown_or_another_keys(servers: Servers) -> None:
    other = servers.register("other")
    session_id = servers.open(servers.a)

    def said(name: str, agent_uuid: str) -> str:
        with pytest.raises(TapPassConfigError) as refused:
            servers.b.own(name, agent_uuid)
        return str(refused.value).replace(name, "…")

    assert servers.b.own(session_id, servers.agent).record.session_id == session_id
    assert said(session_id, other) == said("ses_none", other)
    with pytest.raises(TapPassConfigError) as refused:
        servers.b.open(Opening(id=session_id), other)
    assert str(refused.value).replace(session_id, "…") == said("ses_none", other)
    servers.b.close(session_id, "completed")
    assert said(session_id, servers.agent) == said("ses_none", servers.agent)
    assert servers.b.own(session_id, servers.agent, closed=True).record.session_id == session_id


def test_every_server_opens_the_same_implicit_session(servers: Servers) -> None:
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda each: each.implicit_session(servers.agent), [servers.a, servers.b] * 2))
    assert len({record.session_id for record in opened}) == 1
    assert servers.count("session.opened") == 1
    assert servers.a.implicit_session(servers.register("other")).session_id != opened[0].session_id
    servers.b.close(opened[0].session_id, "completed")
    again = servers.start().implicit_session(servers.agent)
    assert (again.session_id, again.openings) == (opened[0].session_id, 2)


def test_an_approval_is_asked_for_voted_on_and_redeemed_at_different_servers_once(servers: Servers) -> None:
    session_id = servers.open(servers.a)
    held = servers.a.decide(question(session_id, "pay", amount=5))
    assert held.outcome == "needs_approval"
    [waiting] = servers.b.voting.list()
    servers.b.voting.approve(waiting.approval_id, ADA, "fine")
    barrier = threading.Barrier(8)

    def redeem(server: Engine) -> str:
        asked = question(session_id, "pay", amount=5)
        barrier.wait(10)
        return server.decide(asked).outcome

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(redeem, [servers.a, servers.b] * 4))
    assert sorted(outcomes) == ["allow"] + ["needs_approval"] * 7
    assert servers.count("approval.redeemed") == 1


def test_who_asked_takes_a_request_back_and_the_same_call_asks_anew(servers: Servers) -> None:
    session_id, other = servers.open(servers.a), servers.register("other")
    held = servers.a.decide(question(session_id, "pay", amount=5))
    [mine] = servers.b.voting.of_agent(servers.agent, "pending")
    assert servers.b.voting.of_agent(other) == []
    with pytest.raises(TapPassConfigError, match="there is no approval"):
        servers.b.voting.cancel(mine.approval_id, other)
    for server in (servers.b, servers.a):
        assert server.voting.cancel(mine.approval_id, servers.agent).state == "cancelled"
    assert servers.count("approval.cancelled") == 1
    assert servers.a.store.read.row("SELECT action FROM approval", ()) == (None,)
    with pytest.raises(TapPassConfigError, match="is cancelled already"):
        servers.a.voting.approve(mine.approval_id, ADA, "late")
    token = getattr(held.refusal, "resume_token", "")
    resumed = servers.b.decide(question(session_id, "pay", token=token, amount=5))
    assert (resumed.outcome, resumed.refusal and getattr(resumed.refusal, "blocked_by", "")) == (
        "block",
        "approval-cancelled",
    )
    assert servers.b.decide(question(session_id, "pay", amount=5)).outcome == "needs_approval"
    assert [each.state for each in servers.a.voting.of_agent(servers.agent)] == ["cancelled", "pending"]
    servers.a.voting.approve(servers.a.voting.of_agent(servers.agent)[1].approval_id, BOB, "fine")
    with pytest.raises(TapPassConfigError, match="is approved already"):
        servers.b.voting.cancel(servers.a.voting.of_agent(servers.agent)[1].approval_id, servers.agent)


@pytest.mark.parametrize("place", [("org_two", "prj_two"), (ORG, "prj_two")])
def test_nobody_sees_another_organisations_or_projects_sessions(servers: Servers, place: tuple[str, str]) -> None:
    session_id = servers.open(servers.a)
    servers.a.decide(question(session_id, "pay"))
    elsewhere = servers.start(org_id=place[0], project_id=place[1])
    stranger = servers.register("crew", *place)
    assert stranger != servers.agent
    for act in (
        lambda: elsewhere.decide(question(session_id)),
        lambda: elsewhere.own(session_id, servers.agent),
        lambda: elsewhere.close(session_id, "failed"),
        lambda: elsewhere.open(Opening(id=session_id), stranger),
        lambda: elsewhere.implicit_session(servers.agent),
    ):
        with pytest.raises(TapPassConfigError):
            act()
    elsewhere.settle(ending(session_id, "tsk_1"), durable=True)
    assert elsewhere.voting.list("") == []
    assert elsewhere.pipelines.of("unknown") is None
    assert elsewhere.implicit_session(stranger).session_id != servers.a.implicit_session(servers.agent).session_id
    assert servers.a.decide(question(session_id)).outcome == "allow"


def test_an_undone_write_leaves_the_statements_of_the_next_ones_alone(servers: Servers) -> None:
    store = servers.a.store
    sql = "INSERT INTO setting (org_id, key, value) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"

    def undone(tx: Tx) -> None:
        tx.execute(sql, (ORG, "undone", "1"))
        raise KeyError

    def read(tx: Tx) -> list[object]:
        # Enough different statements, each often enough, that the driver prepares some right after the undoing.
        return [tx.execute(f"SELECT {n}, value FROM setting WHERE key = 'undone'").fetchall() for n in range(9)]

    for _ in range(12):
        with pytest.raises(KeyError):
            store.run(undone)
        assert store.run(read) == [[]] * 9
