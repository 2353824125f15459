"""Break-glass: two people, a scope, a time; it ends by itself whatever the clocks say, and everything is on record."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tappass import BreakGlassActive, GovernanceDecision, PolicyBlockError, tappass_session, tool
from tappass.engine.approver import Approver
from tappass.engine.breakglass import scope_of, seconds_of
from tappass.errors import TapPassConfigError, ToolIntegrityViolation, TrustTierDenied
from tappass.testing import memory_plane
from tests.people import ADA, BOB, HandClock, People

POLICY = """
version: 1
rules:
  - {id: tier, tool: tiered, effect: require_tier, tier: trusted}
  - {id: people, tool: held, effect: require_approval}
  - {id: never, tool: forbidden, effect: block}
  - {id: both, tool: worst, effect: require_tier, tier: trusted}
  - {id: both-too, tool: worst, effect: block}
detect:
  pii: {arguments: block}
"""
SECRET = "mail jane.doe@example.com"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def people(clock: HandClock) -> Iterator[People]:
    with memory_plane(POLICY, clock=clock) as plane:
        yield People(plane, clock)


Try = Callable[..., str]


@pytest.fixture
def attempt() -> Try:
    """Return what calls a tool in a session of its own and says what came of it."""
    tools = {
        name: tool(name=name, respect_breakglass=True)(lambda text="": "ran")
        for name in ("tiered", "held", "forbidden", "worst", "plain")
    }

    def call(name: str, *args: str, agent: str = "clerk") -> str:
        with tappass_session(agent=agent):
            try:
                return tools[name](*args)
            except GovernanceDecision as error:
                return type(error).__name__

    return call


@pytest.mark.parametrize(
    ("level", "runs"),
    [
        ("relax", {"tiered", "held", "plain"}),
        ("bypass_step", {"tiered", "held", "plain", "personal"}),
        ("full_bypass", {"tiered", "held", "plain", "personal", "forbidden", "worst"}),
    ],
)
def test_a_level_relaxes_what_it_says_and_no_more(people: People, attempt: Try, level: str, runs: set[str]) -> None:
    people.break_glass(level)
    calls = {name: (name,) for name in ("tiered", "held", "forbidden", "worst", "plain")}
    calls["personal"] = ("plain", SECRET)
    assert {name for name, call in calls.items() if attempt(*call) == "ran"} == runs


def test_a_detector_s_block_that_hides_one_by_policy_is_not_bypassed(people: People, attempt: Try) -> None:
    people.break_glass("bypass_step")
    assert attempt("forbidden", SECRET) == "PolicyBlockError"
    assert attempt("worst", SECRET) == "PolicyBlockError"


def test_a_tier_that_is_relaxed_allows_nothing_where_nothing_is_allowed(people: People, attempt: Try) -> None:
    people.plane.policy(POLICY.replace("version: 1", "version: 1\ndefault: block"))
    people.break_glass("relax")
    assert attempt("tiered") != "ran"
    assert attempt("held") == "ran", "people's yes, which it stands for, is enough"


def test_a_failed_detector_is_a_step_and_policy_still_has_its_say(people: People) -> None:
    people.break_glass("bypass_step")
    engine = people.plane.plane.engine

    class Broken:
        def inspect(self, value: object) -> object:
            if "trip" in str(value):
                raise RuntimeError("out of memory")
            return detectors.inspect(value)

        def __getattr__(self, name: str) -> object:
            return getattr(detectors, name)

    with tappass_session(respect_breakglass=True) as session:
        opened = engine.sessions.find(session.session_id)
        detectors = opened.pipeline.detectors
        object.__setattr__(opened.pipeline, "detectors", Broken())
        try:
            assert tool(name="fine")(lambda text: "ran")("trip") == "ran"
            with pytest.raises(PolicyBlockError):
                tool(name="forbidden")(lambda text: "ran")("trip")
        finally:
            object.__setattr__(opened.pipeline, "detectors", detectors)


def test_integrity_is_bypassed_by_the_middle_level_only(people: People) -> None:
    people.plane.settings('[tools]\nintegrity = "approve"')
    step = tool(name="step", respect_breakglass=True)(lambda: "ran")
    people.break_glass("relax")
    with tappass_session(), pytest.raises(ToolIntegrityViolation):
        step()
    people.break_glass("bypass_step")
    with tappass_session():
        assert step() == "ran"


def test_budgets_hold_under_it(people: People) -> None:
    people.plane.policy("version: 1\nrules: [{id: n, tool: once, effect: block}]\nbudgets: {session: {tool_calls: 1}}")
    once = tool(name="once", respect_breakglass=True)(lambda number: number)
    people.break_glass("full_bypass")
    with tappass_session():
        assert once(1) == 1
        with pytest.raises(PolicyBlockError) as refused:
            once(2)
    assert refused.value.blocked_by.startswith("budget")


def test_a_call_that_nothing_refuses_is_not_under_it(people: People) -> None:
    people.break_glass("full_bypass")
    plain = tool(name="plain")(lambda: "ran")
    with tappass_session() as session:
        assert plain() == "ran"
    assert session.break_glass is None
    (decided,) = people.plane.events(type="call.decided")
    assert (decided.outcome, decided.would_be) == ("allow", "")


def test_who_has_not_agreed_gets_an_error_and_who_has_sees_the_fact_on_the_session(people: People) -> None:
    glass = people.break_glass("relax")
    tiered = tool(name="tiered")(lambda: "ran")
    with tappass_session() as session:
        with pytest.raises(BreakGlassActive) as raised:
            tiered()
        assert (raised.value.level, raised.value.expires_at) == ("relax", glass.expires_at)
        assert session.break_glass is not None
    with tappass_session(respect_breakglass=True) as session:
        assert session.break_glass is None
        assert tiered() == "ran"
        assert session.break_glass is not None
        assert (session.break_glass.level, session.break_glass.expires_at) == ("relax", glass.expires_at)


def test_a_decision_under_it_records_what_it_would_have_been_and_under_which(people: People, attempt: Try) -> None:
    glass = people.break_glass("full_bypass")
    assert [attempt("held"), attempt("forbidden")] == ["ran", "ran"]
    decided = people.plane.events(type="call.decided")
    assert [(e.outcome, e.would_be, e.blocked_by) for e in decided] == [
        ("allow", "needs_approval", "people"),
        ("allow", "block", "never"),
    ]
    used = people.plane.events(type="break_glass.used")
    assert [(e.task_id, e.details["break_glass"]) for e in used] == [(e.task_id, glass.break_glass_id) for e in decided]


@pytest.mark.parametrize(
    ("scope", "runs"),
    [
        ("tier*", ["clerk", "chief"]),
        ("agent:clerk", ["clerk"]),
        ("tiered agent:ch*", ["chief"]),
        ("held", []),
        ("*", ["clerk", "chief"]),
    ],
)
def test_a_scope_names_tools_agents_or_both(people: People, attempt: Try, scope: str, runs: list[str]) -> None:
    people.break_glass("relax", scope)
    assert [agent for agent in ("clerk", "chief") if attempt("tiered", agent=agent) == "ran"] == runs


@pytest.mark.parametrize("scope", ["", "  ", "a b", "agent:", "agent:a agent:b", "a" * 201])
def test_a_scope_that_says_nothing_or_two_things_is_refused(scope: str) -> None:
    with pytest.raises(TapPassConfigError, match="scope"):
        scope_of(scope)


def test_nobody_acts_alone(people: People, attempt: Try) -> None:
    asked = people.glasses.activate(ADA, "relax", "*", "a test", 600)
    assert attempt("tiered") == "TrustTierDenied"
    with pytest.raises(TapPassConfigError, match="somebody else"):
        people.glasses.confirm(ADA, asked.break_glass_id)
    # Another key of the same person is the same person.
    with pytest.raises(TapPassConfigError, match="somebody else"):
        people.glasses.confirm(Approver(person_id="per_1", name="ada", key_id="key_9"), asked.break_glass_id)
    assert attempt("tiered") == "TrustTierDenied"
    people.glasses.confirm(BOB, asked.break_glass_id)
    assert attempt("tiered") == "ran"
    with pytest.raises(TapPassConfigError, match="is active"):
        people.glasses.confirm(BOB, asked.break_glass_id)


def test_it_ends_by_itself(people: People, attempt: Try, clock: HandClock) -> None:
    people.break_glass(seconds=600)
    clock.pass_s(599)
    assert attempt("tiered") == "ran"
    clock.pass_s(1)
    assert attempt("tiered") == "TrustTierDenied"
    assert people.types("break_glass.")[-1] == ("break_glass.expired", "clock")
    assert people.glasses.all()[0].state == "expired"


def test_a_clock_set_back_does_not_bring_it_to_life(people: People, attempt: Try, clock: HandClock) -> None:
    people.break_glass(seconds=600)
    clock.pass_s(601)
    assert attempt("tiered") == "TrustTierDenied"
    clock.set_by(-500)
    assert attempt("tiered") == "TrustTierDenied"
    with pytest.raises(TapPassConfigError, match="is expired"):
        people.glasses.confirm(BOB, people.glasses.all()[0].break_glass_id)


def test_a_call_that_needed_nothing_has_seen_the_time_too(people: People, attempt: Try, clock: HandClock) -> None:
    people.break_glass(seconds=600)
    clock.pass_s(601)
    assert attempt("plain") == "ran"
    clock.set_by(-500)
    assert attempt("tiered") == "TrustTierDenied"


def test_a_clock_set_back_ends_it_rather_than_stretch_it(people: People, attempt: Try, clock: HandClock) -> None:
    people.break_glass(seconds=600)
    clock.pass_s(60)
    assert attempt("tiered") == "ran"
    clock.set_by(-30)
    assert attempt("tiered") == "TrustTierDenied"
    (expired,) = people.plane.events(type="break_glass.expired")
    assert expired.details["why"] == "clock-set-back"


def test_a_clock_that_is_held_still_does_not_stretch_it(people: People, attempt: Try, clock: HandClock) -> None:
    people.break_glass(seconds=600)
    for _ in range(150):
        clock.pass_s(4)
        clock.set_by(-4)
        ran = attempt("tiered")
    assert clock.wall_ns == HandClock().wall_ns
    assert ran == "ran"
    clock.run_ns += 4_000_000_000
    assert attempt("tiered") == "TrustTierDenied"


def test_a_request_that_nobody_confirms_lapses(people: People, clock: HandClock) -> None:
    asked = people.glasses.activate(ADA, "relax", "*", "a test", 600)
    clock.pass_s(3600)
    with pytest.raises(TapPassConfigError, match="is expired"):
        people.glasses.confirm(BOB, asked.break_glass_id)
    assert people.types("break_glass.")[-1] == ("break_glass.expired", "clock")
    with pytest.raises(TapPassConfigError, match="never in force"):
        people.glasses.review(BOB, asked.break_glass_id, "nothing happened")


def test_anyone_ends_it_early_and_for_good(people: People, attempt: Try) -> None:
    glass = people.break_glass()
    eve = Approver(person_id="per_3", name="eve", key_id="key_3")
    people.glasses.end(eve, glass.break_glass_id, "over")
    assert attempt("tiered") == "TrustTierDenied"
    for change in (people.glasses.confirm, people.glasses.end):
        with pytest.raises(TapPassConfigError, match="is ended"):
            change(BOB, glass.break_glass_id)


def test_a_review_is_asked_for_until_there_is_one(people: People) -> None:
    glass = people.break_glass()
    with pytest.raises(TapPassConfigError, match="cannot be reviewed"):
        people.glasses.review(ADA, glass.break_glass_id, "too early")
    people.glasses.end(ADA, glass.break_glass_id)
    assert [row.unreviewed for row in people.glasses.all()] == [True]
    with pytest.raises(TapPassConfigError, match="empty"):
        people.glasses.review(ADA, glass.break_glass_id, "  ")
    people.glasses.review(BOB, glass.break_glass_id, "two payments, both right")
    (row,) = people.glasses.all()
    assert (row.unreviewed, row.reviewed_by, row.review) == (False, "bob", "two payments, both right")
    with pytest.raises(TapPassConfigError, match="already"):
        people.glasses.review(ADA, glass.break_glass_id, "again")


def test_every_step_leaves_a_leaf_with_who_and_none_with_why(people: People) -> None:
    glass = people.break_glass()
    people.glasses.end(BOB, glass.break_glass_id, "landed safely")
    people.glasses.review(ADA, glass.break_glass_id, "all was well")
    assert people.types("break_glass.") == [
        ("break_glass.requested", "ada"),
        ("break_glass.confirmed", "bob"),
        ("break_glass.ended", "bob"),
        ("break_glass.reviewed", "ada"),
    ]
    leaves = str(people.plane.events())
    assert not [words for words in ("a test", "landed safely", "all was well") if words in leaves]
    store = people.plane.plane.engine.store
    kept = [store.read.content(e.seq) for e in people.plane.events() if e.type.startswith("break_glass.")]
    assert kept == [b'{"reason":"a test"}', None, b'{"reason":"landed safely"}', b'{"review":"all was well"}']


@pytest.mark.parametrize(
    ("level", "reason", "seconds", "said"),
    [
        ("everything", "r", 60, "level"),
        ("relax", "", 60, "reason"),
        ("relax", "r", 0, "seconds"),
        ("relax", "r", 86_401, "24 hours"),
    ],
)
def test_a_request_that_is_none_is_refused(people: People, level: str, reason: str, seconds: int, said: str) -> None:
    with pytest.raises(TapPassConfigError, match=said):
        people.glasses.activate(ADA, level, "*", reason, seconds)
    assert not people.types("break_glass.")


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("45s", 45), ("24h", 86_400)])
def test_a_duration_is_read(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "1m1h", "-1m", "1.5h", "9999999h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(TapPassConfigError, match="duration"):
        seconds_of(text)


PERSON = st.sampled_from([ADA, BOB])


class BreakGlassMachine(RuleBasedStateMachine):
    """One override after another, two people, and clocks that are set; held against what may never be."""

    @initialize()
    def begin(self) -> None:
        self.clock = HandClock()
        self.context = memory_plane(POLICY, clock=self.clock)
        self.people = People(self.context.__enter__(), self.clock)
        self.tiered = tool(name="tiered", respect_breakglass=True)(lambda: "ran")
        self.glass, self.state, self.asker = "", "none", ""
        self.asked_at = self.until = self.latest = 0

    @rule(person=PERSON)
    def activate(self, person: Approver) -> None:
        if self.state in ("requested", "active"):
            return
        self.glass = self.people.glasses.activate(person, "relax", "*", "a test", 600).break_glass_id
        self.state, self.asker = "requested", person.name
        self.until, self.latest = self.clock.wall_ns + 3600 * 10**9, self.clock.wall_ns
        self.deadline: int | None = None

    def see(self) -> None:
        """What looking at it does to the model."""
        now = self.clock.wall_ns
        if self.state not in ("requested", "active"):
            return
        if max(now, self.latest) >= self.until or now <= self.latest - 5 * 10**9:
            self.state = "expired"
        self.latest = max(now, self.latest)

    @rule(person=PERSON)
    def confirm(self, person: Approver) -> None:
        self.change(lambda: self.people.glasses.confirm(person, self.glass), self.confirmable(person), "active")

    def confirmable(self, person: Approver) -> bool:
        self.see()
        return self.state == "requested" and person.name != self.asker

    @rule(person=PERSON)
    def end(self, person: Approver) -> None:
        self.see()
        self.change(lambda: self.people.glasses.end(person, self.glass), self.state in ("requested", "active"), "ended")

    def change(self, act: Callable[[], object], may: bool, state: str) -> None:
        if may:
            act()
            self.state = state
            if state == "active":
                self.until = self.latest + 600 * 10**9
                self.deadline = None
        else:
            with pytest.raises(TapPassConfigError):
                act()

    @rule(seconds=st.integers(0, 400))
    def pass_time(self, seconds: int) -> None:
        self.clock.pass_s(seconds)

    @rule(seconds=st.integers(-900, 900))
    def set_clock(self, seconds: int) -> None:
        self.clock.set_by(seconds)

    @rule()
    def call(self) -> None:
        # A call looks at what is in force only.
        if self.state == "active":
            self.see()
        if self.state == "active":
            if self.deadline is None:
                self.deadline = self.clock.run_ns + self.until - self.latest
            if self.clock.run_ns >= self.deadline:
                self.state = "expired"
        with tappass_session():
            if self.state == "active":
                assert self.tiered() == "ran"
            else:
                with pytest.raises(TrustTierDenied):
                    self.tiered()

    def teardown(self) -> None:
        if not hasattr(self, "context"):
            return
        rows = self.people.glasses.all()
        self.see()
        types = [type_ for type_, _ in self.people.types("break_glass.") if not type_.endswith("used")]
        self.context.__exit__(None, None, None)
        assert {row.break_glass_id: row.state for row in rows}.get(self.glass, "none") == self.state
        # Each began once, and no more were in force than a second person confirmed.
        assert types.count("break_glass.requested") == len(rows)
        assert types.count("break_glass.confirmed") == len([row for row in rows if row.confirmed_by])
        assert all(row.confirmed_by != row.activated_by for row in rows)


BreakGlassMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestBreakGlassMachine = BreakGlassMachine.TestCase
