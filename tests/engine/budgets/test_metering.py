"""What a call takes: whole numbers, never less than it may, never a fraction lost."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tappass.engine.metering import (
    Meter,
    Unbounded,
    amount,
    cost,
    limit_of,
    most_tokens,
    quantity,
    tokens_of,
)
from tappass.engine.policy.document import Budget
from tappass.engine.settings import Price
from tappass.wire.chat import Usage
from tappass.wire.decisions import Action
from tappass.wire.findings import Finding


def turn(content: object = "hi", **parameters: object) -> Action:
    arguments = {"messages": [{"role": "user", "content": content}], "tools": [], "parameters": parameters}
    return Action(kind="llm", name="gpt", arguments=arguments)


@pytest.mark.parametrize(
    ("limit", "units"), [("5", 5_000_000), ("20.50", 20_500_000), ("0.0000019", 1), ("0", 0), ("0.1", 100_000)]
)
def test_a_limit_in_dollars_is_whole_millionths_never_more_than_was_said(limit, units):
    assert limit_of(Budget(scope="day", measure="usd", limit=limit)) == units


@pytest.mark.parametrize(
    ("input_", "output", "prompt", "answer", "micro"),
    [
        ("0.15", "0.60", 1_000_000, 0, 150_000),
        ("0.15", "0.60", 7, 3, 3),
        ("0.000001", "0", 1, 0, 1),
        ("0", "0", 10**6, 10**6, 0),
        ("0.1", "0.2", 10, 10, 3),
        ("3", "15", 1, 1, 18),
    ],
)
def test_cost_is_exact_and_rounded_up_once(input_, output, prompt, answer, micro):
    assert cost(Price(input=input_, output=output), prompt, answer) == micro


prices = st.decimals(0, 10**6, places=6, allow_nan=False).map(lambda d: format(d, "f"))
counts = st.integers(0, 10**9)


@given(prices, prices, counts, counts)
def test_cost_is_never_below_what_it_costs_and_less_than_a_millionth_above(input_, output, prompt, answer):
    exact = Decimal(input_) * prompt + Decimal(output) * answer
    assert 0 <= cost(Price(input=input_, output=output), prompt, answer) - exact < 1


@pytest.mark.parametrize(
    ("measure", "used", "words"),
    [
        ("usd", 0, "0 USD"),
        ("usd", 1, "0.000001 USD"),
        ("usd", 5_000_000, "5 USD"),
        ("usd", 20_500_000, "20.5 USD"),
        ("tool_calls", 1, "1 tool call"),
        ("llm_tokens", 1200, "1200 tokens"),
    ],
)
def test_amounts_are_written_as_people_write_them(measure, used, words):
    assert quantity(measure, used) == words
    assert words.startswith(amount(measure, used))


@pytest.mark.parametrize(
    ("meter", "entry"),
    [
        (Meter("session", "ses_1", "tool_calls", 500), "session.tool_calls:12/500"),
        (Meter("session", "ses_1", "tool_calls", 500, inherited=True), "ses_1.tool_calls:12/500"),
        (Meter("day", "", "usd", 5_000_000), "day.usd:0.000012/5"),
        (Meter("agent", "uuid", "llm_tokens"), "agent.llm_tokens:12"),
    ],
)
def test_a_leaf_says_use_and_limit(meter, entry):
    assert meter.entry(12) == entry


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_a_prompt_is_taken_to_have_a_token_for_each_byte_at_least(text):
    prompt, answer = most_tokens(turn(text), (), 4096)
    assert prompt >= len(text.encode()) + len('{"role":"user","content":""}')
    assert answer == 4096


@pytest.mark.parametrize(
    ("parameters", "answer"),
    [
        ({}, 4096),
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 20}, 20),
        ({"max_tokens": 10, "max_completion_tokens": 20}, 20),
        ({"max_tokens": None}, 4096),
        ({"max_tokens": 0}, 0),
    ],
)
def test_an_answer_is_as_long_as_the_turn_says_or_the_settings(parameters, answer):
    assert most_tokens(turn(**parameters), (), 4096)[1] == answer


@pytest.mark.parametrize("said", ["10", 1.5, True, -1, 10**12, [10], float("inf")])
def test_what_is_no_number_of_tokens_bounds_nothing(said):
    with pytest.raises(Unbounded, match="max_tokens"):
        most_tokens(turn(max_tokens=said), (), 4096)


def test_masks_tools_and_parameters_count():
    plain = most_tokens(turn(), (), 1)[0]
    assert most_tokens(turn(), (Finding(kind="EMAIL", start=0, end=1),), 1)[0] == plain + len("[EMAIL]")
    assert most_tokens(turn(response_format={"schema": "x" * 100}), (), 1)[0] > plain + 100


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (None, None),
        (Usage(), None),
        (Usage(prompt_tokens=7, completion_tokens=3, total_tokens=10), (7, 3)),
        (Usage(prompt_tokens=7, completion_tokens=3), (7, 3)),
        (Usage(prompt_tokens=7, completion_tokens=3, total_tokens=50), (7, 43)),
        (Usage(prompt_tokens=7, completion_tokens=-3, total_tokens=4), None),
        (Usage(prompt_tokens=10**12, completion_tokens=3), None),
        (Usage(completion_tokens=3, total_tokens=3), None),
    ],
)
def test_a_count_that_cannot_be_one_is_none(usage, counted):
    assert tokens_of(usage) == counted
