"""Whatever order calls are decided, settled and lost in: what is spent is what the model says, and within the limit."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from tappass.engine.metering import cost
from tappass.engine.settings import Price
from tappass.testing import MemoryPlane
from tappass.wire.chat import Usage
from tappass.wire.decisions import Action, DecisionRequest
from tappass.wire.endings import Ending
from tappass.wire.sessions import Opening
from tests.engine.budgets.test_budgets import DAY_NS, FakeClock

LIMITS = {
    ("session", "tool_calls"): 6,
    ("session", "llm_tokens"): 900,
    ("agent", "llm_tokens"): 1500,
    ("day", "usd"): 1000,
}
POLICY = """
version: 1
budgets:
  session: {tool_calls: 6, llm_tokens: 900}
  agent: {llm_tokens: 1500}
  day: {usd: 0.001}
"""
PRICE = Price(input="0.3", output="0.7")
CAPABILITIES = ("redact_arguments", "scan_result")
STATUSES = ("completed", "failed", "cancelled", "abandoned")


class Spending(RuleBasedStateMachine):
    """Two sessions, one inside the other, of one agent; calls open, end in any order, or never."""

    calls = Bundle("calls")

    @initialize()
    def begin(self) -> None:
        self.clock = FakeClock()
        self.made = MemoryPlane(POLICY, '[prices]\n"gpt" = {input = "0.3", output = "0.7"}\n', clock=self.clock)
        self.plane = self.made.plane.sync
        outer = self.plane.open(Opening())
        inner = self.plane.open(Opening(parent=outer.session_id))
        self.sessions = [(outer.session_id,), (inner.session_id, outer.session_id)]
        self.agent, self.day, self.number = outer.agent_uuid, 0, 0
        self.used: dict[tuple[str, str, str], int] = {}

    def keys(self, session: int, measure: str, day: int) -> list[tuple[str, str, str]]:
        scopes = [scope for scope, counted in LIMITS if counted == measure]
        subjects = {"agent": [self.agent], "day": [f"2026-01-{9 + day:02}"], "session": self.sessions[session]}
        return [(scope, subject, measure) for scope in scopes for subject in subjects[scope]]

    def decided(self, session: int, action: Action, takes: dict[str, int]) -> bool:
        self.number += 1
        keys = {measure: self.keys(session, measure, self.day) for measure in takes}
        fits = all(
            self.used.get(key, 0) + taken <= LIMITS[key[0], measure]
            for measure, taken in takes.items()
            for key in keys[measure]
        )
        request = DecisionRequest(
            action=action,
            session_id=self.sessions[session][0],
            task_id=f"tsk_{self.number}",
            capabilities=CAPABILITIES,
        )
        assert (self.plane.decide(request).outcome == "allow") is fits
        if fits:
            for measure, taken in takes.items():
                for key in keys[measure]:
                    self.used[key] = self.used.get(key, 0) + taken
        return fits

    @rule(session=st.integers(0, 1))
    def call_a_tool(self, session: int) -> None:
        self.decided(session, Action(kind="tool", name="work", arguments={}), {"tool_calls": 1})

    @rule(target=calls, session=st.integers(0, 1), answer=st.integers(0, 400))
    def ask_a_model(self, session: int, answer: int) -> object:
        arguments = {"messages": [], "tools": [], "parameters": {"max_tokens": answer}}
        prompt = len(f'{{"messages":[],"tools":[],"parameters":{{"max_tokens":{answer}}}}}')
        takes = {"llm_tokens": prompt + answer, "usd": cost(PRICE, prompt, answer)}
        if not self.decided(session, Action(kind="llm", name="gpt", arguments=arguments), takes):
            return multiple()
        return session, self.number, self.day, prompt, answer, takes

    @rule(call=consumes(calls), status=st.sampled_from(STATUSES), share=st.floats(0, 1), told=st.booleans())
    def end(self, call: tuple, status: str, share: float, told: bool) -> None:
        session, number, day, prompt, answer, takes = call
        read, wrote = max(1, int(prompt * share)), int(answer * share)
        usage = Usage(prompt_tokens=read, completion_tokens=wrote, total_tokens=read + wrote) if told else None
        self.settle(session, number, status, usage=usage)
        if told and status == "completed":
            self.give_back(session, day, takes, {"llm_tokens": read + wrote, "usd": cost(PRICE, read, wrote)})

    @rule(call=consumes(calls), status=st.sampled_from(STATUSES))
    def end_before_anything_was_sent(self, call: tuple, status: str) -> None:
        session, number, day, _, _, takes = call
        self.settle(session, number, status, ran=False)
        self.give_back(session, day, takes, dict.fromkeys(takes, 0))

    @rule(call=consumes(calls))
    def lose(self, call: tuple) -> None:
        """Its process is killed: no ending ever comes."""

    @rule(call=calls)
    def end_in_a_session_it_does_not_belong_to(self, call: tuple) -> None:
        session, number, *_ = call
        self.settle(1 - session, number, "completed", ran=False)

    @rule()
    def sleep(self) -> None:
        if self.day < 5:
            self.day += 1
            self.clock.now_ns += DAY_NS

    def settle(self, session: int, number: int, status: str, **more: object) -> None:
        ids = {"session_id": self.sessions[session][0], "task_id": f"tsk_{number}"}
        self.plane.settle(Ending(**ids, status=status, duration_us=1, **more))  # type: ignore[arg-type]

    def give_back(self, session: int, day: int, takes: dict[str, int], took: dict[str, int]) -> None:
        for measure, taken in takes.items():
            for key in self.keys(session, measure, day):
                self.used[key] += took[measure] - taken

    @invariant()
    def what_is_spent_is_what_was_taken_and_within_the_limits(self) -> None:
        if not hasattr(self, "made"):
            return
        store = self.made.plane.engine.store
        store.flush()
        rows = store.read.query(
            "SELECT scope, CASE scope WHEN 'day' THEN period ELSE subject END, unit, used FROM budget"
            " WHERE scope <> 'call'"
        )
        stored = {(scope, subject, unit): used for scope, subject, unit, used in rows}
        assert stored == self.used
        assert all(0 <= used <= LIMITS[scope, unit] for (scope, _, unit), used in stored.items())

    def teardown(self) -> None:
        if hasattr(self, "made"):
            self.made.plane.shutdown()


Spending.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestSpending = Spending.TestCase
