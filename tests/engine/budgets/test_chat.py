"""A chat turn reserves the most that it may take, and its ending puts what it took in the place of that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, aclosing, closing
from typing import Any

import anyio
import pytest

from tappass import PolicyBlockError
from tappass.engine import http_clients
from tappass.engine.metering import amount
from tappass.errors import RedactionApplied, TapPassConnectionError
from tappass.testing import memory_plane
from tests.engine.budgets.test_budgets import used
from tests.engine.test_gateway import Subject
from tests.fake_model import FakeModel, error, text

SETTINGS = """
[[upstream]]
match = "*"
base_url = "{url}"
[prices]
"gpt-4o-mini" = {{input = 1, output = 2}}
"dear" = {{input = 100, output = 200}}
"fake-*" = {{input = 1, output = 2}}
"""
TOKENS = "version: 1\nbudgets: {session: {llm_tokens: 500}}"
USD = "version: 1\nbudgets: {session: {usd: 0.001}}"
BYTES = len('{"messages":[{"role":"user","content":"Hello"}],"tools":[],"parameters":{"max_tokens":50}}')


class Model(Subject):
    """A plane under one policy, with one upstream and a session, called in one way."""

    def ask(self, **more: Any) -> Any:
        more.setdefault("parameters", {"max_tokens": 50})
        return self.chat("Hello", task_id=f"tsk_{len(self.plane.events())}", **more)

    def ask_streamed(self, **more: Any) -> Any:
        more.setdefault("parameters", {"max_tokens": 50})
        return self.stream("Hello", task_id=f"tsk_{len(self.plane.events())}", **more)

    def under(self, policy: str) -> Model:
        self.plane.policy(policy)
        return Model(self.plane, self.model, self._backend)

    def asks(self, streamed: bool) -> Any:
        return self.ask_streamed if streamed else self.ask


@pytest.fixture(params=["sync", "asyncio", "trio"])
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    with ExitStack() as stack:
        fake = stack.enter_context(FakeModel())
        settings = SETTINGS.format(url=fake.base_url)
        yield Model(stack.enter_context(memory_plane("", settings)), fake, request.param)
        http_clients.close()


@pytest.mark.parametrize("streamed", [False, True])
def test_a_turn_spends_what_the_upstream_counted(model: Model, streamed: bool) -> None:
    model = model.under(TOKENS)
    model.asks(streamed)()
    (decided,) = model.plane.events(type="call.decided")
    assert decided.budgets == (f"session.llm_tokens:{BYTES + 50}/500",)
    assert model.ended().budgets == ("llm_tokens:10",)
    assert not model.ended().details
    assert used(model.plane) == {("session", "llm_tokens"): 10}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_turn_that_does_not_fit_with_its_reservation_is_never_sent(model: Model, streamed: bool) -> None:
    model = model.under(TOKENS)
    model.ask()
    with pytest.raises(PolicyBlockError) as caught:
        model.asks(streamed)(parameters={"max_tokens": 450})
    takes = BYTES + len("4") + 450
    assert caught.value.blocked_by == "budget.session.llm_tokens"
    assert caught.value.reason == (
        f"blocked: the session's budget of 500 tokens has 490 left (10 used), and this call may take {takes}"
    )
    assert len(model.model.seen) == 1
    assert used(model.plane) == {("session", "llm_tokens"): 10}


def test_where_a_turn_says_no_length_the_settings_do(model: Model) -> None:
    model = model.under("version: 1\nbudgets: {session: {llm_tokens: 4000}}")
    with pytest.raises(PolicyBlockError):
        model.ask(parameters={})
    model.plane.settings(SETTINGS.format(url=model.model.base_url) + "[limits]\ncompletion_tokens = 100\n")
    model = Model(model.plane, model.model, model._backend)
    model.ask(parameters={})


def test_money_is_counted_in_millionths_by_the_prices_of_the_settings(model: Model) -> None:
    model = model.under(USD)
    model.ask()
    (decided,) = model.plane.events(type="call.decided")
    assert decided.budgets == (f"session.usd:{amount('usd', BYTES + 2 * 50)}/0.001",)
    assert model.ended().budgets == ("usd:0.000013",)
    assert used(model.plane) == {("session", "usd"): 13}


def test_a_dearer_model_that_answered_is_paid_for(model: Model) -> None:
    model = model.under("version: 1\nbudgets: {session: {usd: 1}}")
    model.model.add(text("Hello", model="dear"))
    model.ask()
    assert model.ended().budgets == ("usd:0.0013",)


def test_a_model_without_a_price_is_refused_where_money_is_counted_and_the_error_says_what_to_add(model: Model) -> None:
    model = model.under(USD)
    with pytest.raises(PolicyBlockError) as caught:
        model.ask(model="unpriced")
    assert caught.value.blocked_by == "budget.session.usd"
    assert '[prices]: "unpriced" = {input = ..., output = ...}' in caught.value.reason
    assert not model.model.seen


def test_a_length_that_is_no_number_is_refused(model: Model) -> None:
    model = model.under(TOKENS)
    with pytest.raises(PolicyBlockError, match="`max_tokens` is not a number of tokens"):
        model.ask(parameters={"max_tokens": "many"})
    assert not model.model.seen


@pytest.mark.parametrize("streamed", [False, True])
def test_what_the_upstream_does_not_count_stays_reserved_and_the_log_says_so(model: Model, streamed: bool) -> None:
    model = model.under(TOKENS)
    model.model.add(text("Hello", usage=None))
    model.asks(streamed)()
    assert model.ended().budgets == (f"llm_tokens:{BYTES + 50}",)
    assert model.ended().details == {"usage": "not reported"}
    assert used(model.plane) == {("session", "llm_tokens"): BYTES + 50}


def test_an_upstream_that_fails_keeps_the_reservation(model: Model) -> None:
    model = model.under(TOKENS)
    model.model.add(error(500))
    with pytest.raises(TapPassConnectionError):
        model.ask()
    assert used(model.plane) == {("session", "llm_tokens"): BYTES + 50}


def test_a_turn_that_was_never_sent_spends_nothing(model: Model) -> None:
    model = model.under("version: 1\ndetect: {pii: {prompt: redact}}\nbudgets: {session: {llm_tokens: 500, usd: 1}}")
    with pytest.raises(RedactionApplied):
        model.chat("Mail jane.doe@acme.example", raise_on_redaction=True, parameters={"max_tokens": 5})
    assert not model.model.seen
    assert model.ended().budgets == ("llm_tokens:0", "usd:0")
    assert used(model.plane) == {("session", "llm_tokens"): 0, ("session", "usd"): 0}


def test_a_stream_that_is_dropped_keeps_its_reservation(model: Model) -> None:
    model = model.under(TOKENS)
    model.model.add(text("Hel", "lo", " you"))
    request = model.request("Hello", parameters={"max_tokens": 50}, task_id="tsk_1")
    if model._backend == "sync":
        with closing(model.plane.plane.sync.stream(request)) as chunks:  # type: ignore[type-var]
            next(iter(chunks))
    else:

        async def drop() -> None:
            async with aclosing(await model.plane.plane.aio.stream(request)) as chunks:  # type: ignore[type-var]
                await anext(aiter(chunks))

        anyio.run(drop, backend=model._backend)
    assert model.ended().status == "abandoned"
    assert model.ended().budgets == (f"llm_tokens:{BYTES + 50}",)
    assert used(model.plane) == {("session", "llm_tokens"): BYTES + 50}


def test_an_answer_longer_than_its_reservation_is_counted_whole_and_the_next_turn_is_refused(model: Model) -> None:
    model = model.under(TOKENS)
    model.model.add(text("Hello", usage=(7, 600)))
    model.ask()
    assert used(model.plane) == {("session", "llm_tokens"): 607}
    with pytest.raises(PolicyBlockError, match=r"budget of 500 tokens is used up \(607 used\)"):
        model.ask()


def test_rules_read_tokens_and_money_and_what_this_turn_may_take(model: Model) -> None:
    model = model.under("""
        version: 1
        rules:
          - {id: tokens, llm: "*", when: budget.session.llm_tokens >= 10, effect: block}
          - {id: money, llm: "*", when: budget.day.usd > 0.000012, effect: block}
          - {id: large, llm: "*", when: budget.call.llm_tokens > 1000 || budget.call.usd > 0.5, effect: block}
    """)
    with pytest.raises(PolicyBlockError) as caught:
        model.ask(parameters={"max_tokens": 2000})
    assert caught.value.blocked_by == "large"
    model.ask()
    with pytest.raises(PolicyBlockError) as caught:
        model.ask()
    assert [event.rules for event in model.plane.events(type="call.decided")] == [("large",), (), ("money", "tokens")]


def test_tool_calls_and_turns_do_not_spend_each_others_budgets(model: Model) -> None:
    model = model.under("version: 1\nbudgets: {session: {tool_calls: 0, llm_tokens: 500}}")
    model.ask()
    assert used(model.plane) == {("session", "llm_tokens"): 10}
