"""A question asked twice is decided once, and answered twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from tappass.engine.engine import Engine
from tappass.engine.replaying import RequestConflict
from tappass.engine.store.port import Store
from tappass.errors import TapPassConfigError
from tappass.wire.decisions import ToolDefinition
from tests.engine.shared.servers import ADA, POLICY, Servers, ending, question
from tests.people import HandClock

KEY = "key_1"


@pytest.mark.parametrize(("tool", "outcome"), [("look", "allow"), ("wipe", "block")])
def test_an_answer_is_given_again_by_any_server(servers: Servers, tool: str, outcome: str) -> None:
    asked = question(servers.open(), tool, at="ann@acme.com")
    first = servers.a.govern(asked, credential=KEY)
    assert first.outcome == outcome
    assert servers.b.govern(asked, credential=KEY) == first
    assert servers.a.govern(asked, credential=KEY) == first
    assert servers.count("call.decided") == 1


def test_obligations_are_given_again(servers: Servers) -> None:
    masking = "version: 1\ndetect: {pii: {arguments: redact, result: redact}}\n"
    server = servers.start(policy=masking)
    asked = question(servers.open(server), to="ann@acme.com")
    first = server.govern(asked, credential=KEY)
    assert len(first.obligations) == 2
    assert servers.b.govern(asked, credential=KEY) == first


def test_two_at_once_are_decided_once(servers: Servers) -> None:
    asked = question(servers.open())
    barrier = threading.Barrier(8)

    def ask(server: Engine) -> bytes:
        barrier.wait(10)
        return msgspec.json.encode(server.govern(asked, credential=KEY))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, [servers.a, servers.b] * 4))) == 1
    assert servers.count("call.decided") == 1


def test_another_call_under_the_same_id_is_a_conflict(servers: Servers) -> None:
    session_id, other = servers.open(), servers.open()
    asked = question(session_id, amount=1)
    held = question(session_id, "pay", amount=1)
    servers.a.govern(asked, credential=KEY)
    servers.a.govern(held, credential=KEY)
    for changed in (
        question(session_id, task_id=asked.task_id, amount=2),
        question(session_id, "find", task_id=asked.task_id, amount=1),
        question(other, task_id=asked.task_id, amount=1),
        msgspec.structs.replace(asked, capabilities=()),
        question(session_id, "pay", task_id=held.task_id, amount=2),
    ):
        with pytest.raises(RequestConflict, match="another call was decided under this id"):
            servers.b.govern(changed, credential=KEY)
    assert servers.count("call.decided") == 2
    # The same id of somebody else is another one, and numbers count by value.
    mine, theirs = (question(session_id, task_id=asked.task_id, amount=amount) for amount in (1.0, 2))
    assert servers.b.govern(theirs, credential="key_2").outcome == "allow"
    assert servers.b.govern(mine, credential=KEY).outcome == "allow"


def test_a_definition_that_comes_along_later_is_no_other_question(servers: Servers) -> None:
    asked = question(servers.open())
    first = servers.a.govern(asked, credential=KEY)
    again = msgspec.structs.replace(asked, definition=ToolDefinition(name="look"), traceparent="00-1")
    assert servers.b.govern(again, credential=KEY) == first


@pytest.mark.parametrize("same_id", [True, False])
def test_a_held_call_is_asked_again_until_people_agree_and_then_redeemed_once(servers: Servers, same_id: bool) -> None:
    session_id = servers.open()
    asked = question(session_id, "pay", amount=5)
    held = servers.a.govern(asked, credential=KEY)
    assert held.outcome == "needs_approval"
    assert servers.b.govern(asked, credential=KEY).refusal == held.refusal
    [waiting] = servers.a.voting.list()
    servers.a.voting.approve(waiting.approval_id, ADA, "fine")
    again = asked if same_id else question(session_id, "pay", amount=5)
    redeemed = servers.b.govern(again, credential=KEY)
    assert redeemed.outcome == "allow"
    # The answer was lost on its way: whoever asks again under that id gets the same yes, and people are not asked.
    assert servers.a.govern(again, credential=KEY) == redeemed
    assert servers.count("approval.redeemed") == servers.count("approval.requested") == 1
    servers.a.settle(ending(session_id, again.task_id), durable=True)
    assert servers.count("call.ended") == 1
    assert servers.b.govern(question(session_id, "pay", amount=5), credential=KEY).outcome == "needs_approval"


def test_a_resume_token_redeems_under_the_same_id_as_well(servers: Servers) -> None:
    asked = question(servers.open(), "pay", amount=5)
    token = getattr(servers.a.govern(asked, credential=KEY).refusal, "resume_token", "")
    [waiting] = servers.a.voting.list()
    servers.b.voting.approve(waiting.approval_id, ADA, "fine")
    resumed = msgspec.structs.replace(asked, resume_token=token)
    redeemed = servers.b.govern(resumed, credential=KEY)
    assert redeemed.outcome == "allow"
    assert servers.a.govern(resumed, credential=KEY) == redeemed


def test_nothing_is_answered_again_in_a_session_that_was_closed(servers: Servers) -> None:
    session_id = servers.open()
    asked = question(session_id)
    servers.a.govern(asked, credential=KEY)
    servers.b.close(session_id, "completed")
    with pytest.raises(TapPassConfigError, match="is not open on this plane"):
        servers.a.govern(asked, credential=KEY)


def test_answers_are_forgotten_after_a_day_some_at_a_time(open_store: Callable[[], Store]) -> None:
    clock = HandClock()
    servers = Servers(open_store, POLICY, clock)
    try:
        session_id = servers.open()
        asked = [question(session_id) for _ in range(5)]
        for each in asked:
            servers.a.govern(each, credential=KEY)
        clock.pass_s(24 * 3600 - 1)
        assert servers.b.sweep() == 0
        clock.pass_s(1)
        assert [servers.b.sweep(2), servers.a.sweep(2), servers.b.sweep(2), servers.b.sweep(2)] == [2, 2, 1, 0]
        servers.a.govern(asked[0], credential=KEY)
        assert servers.count("call.decided") == 6
    finally:
        servers.close()
