"""Approvals and sessions as state machines, held against models."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from tappass import ApprovalRequired, PolicyBlockError, TapPassConfigError, resume, tappass_session, tool
from tappass.engine.approver import Approver
from tappass.testing import memory_plane

POLICY = """
    version: 1
    rules:
      - {id: big, tool: pay_model, effect: require_approval, approvers: 2, expires_in: 100s}
"""


class StepClock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now_ns = 1_800_000_000_000_000_000

    def time_ns(self) -> int:
        self.now_ns += 1_000
        return self.now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns


class Model:
    """What one approval should be like."""

    def __init__(self, amount: int, deadline_ns: int) -> None:
        self.amount = amount
        self.deadline_ns = deadline_ns
        self.voters: set[str] = set()
        self.state = "pending"


class ApprovalMachine(RuleBasedStateMachine):
    tokens: Bundle[str] = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.clock = StepClock()
        self.context = memory_plane(POLICY, clock=self.clock)
        self.plane = self.context.__enter__()
        self.models: dict[str, Model] = {}
        self.ran: list[int] = []
        self.expected: list[int] = []
        ran = self.ran

        @tool(name="pay_model")
        def pay(amount: int) -> int:
            ran.append(amount)
            return amount

        self.pay = pay

    def teardown(self) -> None:
        self.context.__exit__(None, None, None)

    @initialize()
    def people(self) -> None:
        def write(tx):
            for name in "abc":
                tx.execute(
                    "INSERT INTO person (person_id, org_id, name, roles, created_at)"
                    " VALUES (?, 'org_local', ?, '', '')",
                    (f"per_{name}", name),
                )

        self.plane.plane.engine.store.run(write)

    @property
    def voting(self):
        return self.plane.plane.engine.voting

    def model(self, token: str) -> Model:
        model = self.models[token]
        if model.state in ("pending", "approved") and self.clock.now_ns + 2_000 >= model.deadline_ns:
            model.state = "expired"
        return model

    @rule(target=tokens, amount=st.integers(1, 3))
    def ask(self, amount: int) -> str:
        with pytest.raises(ApprovalRequired) as caught, tappass_session():
            self.pay(amount)
        token = caught.value.resume_token
        self.models[token] = Model(amount, self.clock.now_ns + 100 * 10**9 - 10**6)
        return token

    @rule(token=tokens, name=st.sampled_from("abc"), vote=st.sampled_from(["approve", "deny"]))
    def vote(self, token: str, name: str, vote: str) -> None:
        model = self.model(token)
        person = Approver(person_id=f"per_{name}", name=name, key_id="")
        approval_id = token.removeprefix("tp_resume_").rpartition(".")[0]
        if model.state != "pending" or name in model.voters:
            with pytest.raises(TapPassConfigError):
                getattr(self.voting, vote)(approval_id, person, "said")
            return
        state = getattr(self.voting, vote)(approval_id, person, "said").state
        model.voters.add(name)
        if vote == "deny":
            model.state = "denied"
        elif len(model.voters) == 2:
            model.state = "approved"
        assert state == model.state

    @rule(token=tokens, other=st.booleans())
    def redeem(self, token: str, other: bool) -> None:
        model = self.model(token)
        amount = model.amount + 10 if other else model.amount
        try:
            with resume(token):
                self.pay(amount)
        except (ApprovalRequired, PolicyBlockError) as error:
            said = error
        else:
            said = None
        if isinstance(said, ApprovalRequired):
            assert not other
            assert model.state == "pending"
            assert said.resume_token == token
        elif said is not None:
            expected = {"redeemed": "approval-used", "denied": "approval-denied", "expired": "approval-expired"}
            assert said.blocked_by == ("approval-other-action" if other else expected[model.state])
        else:
            assert not other
            assert model.state == "approved"
            model.state = "redeemed"
            self.expected.append(amount)

    @precondition(lambda self: self.models)
    @rule(seconds=st.sampled_from([1, 60, 200]))
    def later(self, seconds: int) -> None:
        self.clock.now_ns += seconds * 10**9

    @rule(token=consumes(tokens))
    def forget(self, token: str) -> None:
        """Nobody ever asks about this one again."""

    @invariant()
    def only_what_was_agreed_ran(self) -> None:
        assert self.ran == self.expected


class SessionMachine(RuleBasedStateMachine):
    """Open, nested, failed, suspended, closed: the log tells the same story as the model."""

    def __init__(self) -> None:
        super().__init__()
        self.context = memory_plane(POLICY)
        self.plane = self.context.__enter__()
        self.open: list[tuple[object, object]] = []
        self.closed: list[tuple[str, str]] = []

    def teardown(self) -> None:
        while self.open:
            self.leave(None)
        self.context.__exit__(None, None, None)

    @precondition(lambda self: len(self.open) < 5)
    @rule()
    def enter(self) -> None:
        unit = tappass_session()
        session = unit.__enter__()
        assert session.parent == (self.open[-1][1].session_id if self.open else "")
        self.open.append((unit, session))

    @precondition(lambda self: self.open)
    @rule(error=st.sampled_from([None, ValueError("x"), ApprovalRequired("asked")]))
    def leave(self, error: BaseException | None) -> None:
        unit, session = self.open.pop()
        unit.__exit__(type(error) if error else None, error, None)
        status = {type(None): "completed", ValueError: "failed", ApprovalRequired: "suspended"}[type(error)]
        assert session.status == status
        self.closed.append((session.session_id, status))

    @precondition(lambda self: self.closed)
    @rule()
    def a_closed_session_takes_no_call(self) -> None:
        with pytest.raises(TapPassConfigError):
            self.plane.plane.engine.sessions.find(self.closed[-1][0])

    @invariant()
    def the_log_says_the_same(self) -> None:
        told = [(e.session_id, e.status) for e in self.plane.events(type="session.closed")]
        assert told == self.closed
        rows = {row.session_id: row.status for row in self.plane.plane.engine.store.read.sessions(limit=1000)}
        assert all(rows[session.session_id] == "open" for _, session in self.open)
        assert all(rows[session_id] == status for session_id, status in self.closed)


TestApproval = ApprovalMachine.TestCase
TestSession = SessionMachine.TestCase
TestApproval.settings = TestSession.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
