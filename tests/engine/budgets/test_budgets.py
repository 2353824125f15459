"""Budgets: what a policy limits is never overspent, and a refusal names budget, limit and use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tappass import PolicyBlockError, current_session, tappass_session, tappass_session_async, tool
from tappass.errors import GovernanceDecision
from tappass.testing import MemoryPlane, memory_plane

NOON = 1_767_960_000_000_000_000  # 2026-01-09T12:00:00Z
DAY_NS = 24 * 3600 * 10**9


class FakeClock:
    """A clock that stands until it is moved."""

    def __init__(self, now_ns: int = NOON) -> None:
        self.now_ns = now_ns

    def time_ns(self) -> int:
        return self.now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns


@tool(name="work")
def work(n: int = 0) -> int:
    return n


@pytest.fixture
def plane(clock: FakeClock) -> Iterator[MemoryPlane]:
    with memory_plane(clock=clock) as made:
        yield made


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def used(plane: MemoryPlane) -> dict[tuple[str, str], int]:
    """Return what is used, by scope and measure; of several subjects the sum."""
    plane.plane.engine.store.flush()
    rows = plane.plane.engine.store.read.query("SELECT scope, unit, sum(used) FROM budget GROUP BY scope, unit")
    return {(scope, unit): total for scope, unit, total in rows}


def refused() -> PolicyBlockError:
    with pytest.raises(PolicyBlockError) as caught:
        work()
    return caught.value


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ("session", "the session's budget of 2 tool calls is used up (2 used)"),
        ("agent", "the agent's budget of 2 tool calls is used up (2 used)"),
        ("day", "the budget of 2 tool calls for 2026-01-09 (UTC) is used up (2 used)"),
    ],
)
def test_a_refusal_names_budget_limit_and_use_and_spends_nothing(plane, scope, said):
    plane.policy(f"version: 1\nbudgets: {{{scope}: {{tool_calls: 2}}}}")
    with tappass_session() as session:
        assert [work(1), work(2)] == [1, 2]
        error = refused()
        assert refused().reason == error.reason == f"blocked: {said}"
        assert error.blocked_by == f"budget.{scope}.tool_calls"
        assert str(error) == f"`work` blocked: {said}; nothing ran; see {session.audit_url}"
    assert used(plane) == {(scope, "tool_calls"): 2}
    said_in_log = [event.budgets for event in plane.events(type="call.decided")]
    assert said_in_log == [(f"{scope}.tool_calls:{n}/2",) for n in (1, 2, 2, 2)]


def test_a_budget_for_one_call_looks_at_that_call_alone(plane):
    plane.policy("version: 1\nbudgets: {call: {tool_calls: 1}}")
    with tappass_session():
        assert [work(n) for n in range(3)] == [0, 1, 2]
    plane.policy("version: 1\nbudgets: {call: {tool_calls: 0}}")
    with tappass_session():
        said = "blocked: the budget of 0 tool calls for one call is less than the 1 tool call that it may take"
        assert refused().reason == said
    assert used(plane) == {}


def test_sessions_have_a_budget_each_and_agents_share_theirs_across_sessions(plane):
    plane.policy("version: 1\nbudgets: {session: {tool_calls: 1}, agent: {tool_calls: 2}}")
    for _ in range(2):
        with tappass_session(agent="ann"):
            work()
    with tappass_session(agent="ann"):
        assert refused().blocked_by == "budget.agent.tool_calls"
    with tappass_session(agent="bob"):
        work()
        assert refused().blocked_by == "budget.session.tool_calls"


def test_children_spend_the_budgets_of_the_sessions_around_them(plane):
    plane.policy("version: 1\nbudgets: {session: {tool_calls: 3}}")
    with tappass_session() as outer:
        work()
        with tappass_session():
            work()
            with tappass_session():
                work()
                reason = refused().reason
        assert refused().blocked_by == "budget.session.tool_calls"
    around = f"the budget of 3 tool calls of the session around it, `{outer.session_id}`, is used up (3 used)"
    assert reason == f"blocked: {around}"
    inner = plane.events(type="call.decided", outcome="allow")[-1]
    assert inner.budgets[0] == "session.tool_calls:1/3"
    assert f"{outer.session_id}.tool_calls:3/3" in inner.budgets


def test_a_policy_accepted_meanwhile_frees_no_child_of_the_budget_around_it(plane):
    plane.policy("version: 1\nbudgets: {session: {tool_calls: 1}}")
    with tappass_session():
        plane.policy("version: 1\ndefault: allow")
        with tappass_session():
            work()
            assert refused().blocked_by == "budget.session.tool_calls"


def test_a_new_day_has_its_budget_anew_even_for_a_call_refused_before(plane, clock):
    plane.policy("version: 1\nbudgets: {day: {tool_calls: 1}}")
    with tappass_session():
        work()
        assert "2026-01-09" in refused().reason
        clock.now_ns += DAY_NS
        work()
        assert "2026-01-10" in refused().reason
        clock.now_ns -= DAY_NS
        assert "2026-01-09" in refused().reason


def test_what_policy_refuses_or_holds_spends_nothing(plane):
    plane.policy("""
        version: 1
        rules:
          - {id: never, tool: work, when: args.n == 1, effect: block}
          - {id: ask, tool: work, when: args.n == 2, effect: require_approval}
          - {id: high, tool: work, when: args.n == 3, effect: require_tier, tier: privileged}
        budgets: {session: {tool_calls: 5}}
    """)
    with tappass_session():
        for n in (1, 2, 3):
            with pytest.raises(GovernanceDecision):
                work(n)
        work(4)
    assert used(plane) == {("session", "tool_calls"): 1}


def test_a_call_whose_obligations_cannot_be_carried_out_spends_nothing(plane):
    from tappass.wire.decisions import Action, DecisionRequest

    plane.policy("version: 1\ndetect: {pii: {result: redact}}\nbudgets: {session: {tool_calls: 5}}")
    with tappass_session() as session:
        action = Action(kind="tool", name="work", arguments={})
        request = DecisionRequest(action=action, session_id=session.session_id, task_id="tsk_1", capabilities=())
        assert plane.plane.sync.decide(request).outcome == "block"
    assert used(plane) == {}


def test_observe_lets_a_call_over_the_budget_run_and_counts_it(plane):
    plane.policy("version: 1\nallow_observe: true\nbudgets: {session: {tool_calls: 1}}")
    with tappass_session(mode="observe"):
        assert [work(1), work(2)] == [1, 2]
    first, second = plane.events(type="call.decided")
    assert (first.would_be, second.would_be, second.outcome) == ("", "block", "allow")
    assert second.blocked_by == "budget.session.tool_calls"
    assert second.budgets == ("session.tool_calls:2/1",)


@pytest.mark.parametrize(
    ("condition", "allowed"),
    [
        ("budget.session.tool_calls >= 3", 3),
        ("budget.agent.tool_calls >= 2", 2),
        ("budget.day.tool_calls > 0", 1),
        ("budget.call.tool_calls > 1", 5),
        ("budget.session.tool_calls + budget.call.tool_calls > 4", 4),
        ("budget.session.llm_tokens > 0", 5),
    ],
)
def test_rules_read_what_is_spent_before_the_call_whether_or_not_it_is_limited(plane, condition, allowed):
    plane.policy(f"version: 1\nrules: [{{id: enough, tool: work, when: '{condition}', effect: block}}]")
    with tappass_session():
        for n in range(5):
            with contextlib.suppress(PolicyBlockError):
                work(n)
    decided = plane.events(type="call.decided")
    assert [event.blocked_by for event in decided] == [""] * allowed + ["enough"] * (5 - allowed)


def test_a_policy_without_budgets_asks_the_budget_table_nothing(plane):
    plane.policy("version: 1\nrules: [{id: a, tool: work, when: args.n > 5, effect: block}]")
    asked: list[str] = []
    with tappass_session():
        work()
        connection = plane.plane.engine.store._link.ready()
        connection.set_trace_callback(asked.append)
        work()
        plane.events()
        connection.set_trace_callback(None)
    assert any("INSERT INTO leaf" in sql for sql in asked)
    assert not [sql for sql in asked if "budget (" in sql or "FROM budget" in sql]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_coroutines_spend_the_same_budget(plane, backend):
    plane.policy("version: 1\nbudgets: {session: {tool_calls: 10}}")

    @tool(name="awork")
    async def awork() -> None:
        await anyio.lowlevel.checkpoint()

    counts = {"ran": 0, "refused": 0}

    async def one() -> None:
        try:
            await awork()
            counts["ran"] += 1
        except PolicyBlockError:
            counts["refused"] += 1

    async def main() -> None:
        async with tappass_session_async(), anyio.create_task_group() as tasks:
            for _ in range(25):
                tasks.start_soon(one)

    anyio.run(main, backend=backend)
    assert counts == {"ran": 10, "refused": 15}
    assert used(plane) == {("session", "tool_calls"): 10}
    assert current_session() is None


def test_a_guarded_refusal_is_asked_again_but_remembered_for_the_end_of_its_unit(plane):
    from tappass.enforcement.latch import Latch

    plane.policy("version: 1\nbudgets: {session: {tool_calls: 0}}")
    with tappass_session():
        error: Any = refused()
    latch = Latch()
    latch.keep(b"key", error)
    assert latch.find(b"key") is None
    assert latch.last is error
