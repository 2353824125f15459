"""What nobody foresaw blocks: the tool does not run, the error says why, and the next call goes through."""

from __future__ import annotations

import msgspec
import pytest

from tappass import BreakGlassActive, PolicyBlockError, TapPassConfigError, TapPassConnectionError, TrustTierDenied
from tappass.wire.decisions import Decision, RuleMatch
from tappass.wire.findings import Redaction
from tappass.wire.obligations import RedactArguments
from tappass.wire.refusals import BreakGlass, PolicyBlock, TierDenied


class Notarise(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="notarise"):
    """An obligation from the future."""

    by: str = "secret-notary"


@pytest.fixture
def answers(plane, monkeypatch):
    """Return a function that puts something in the place of what the plane answers."""
    real = plane.plane.sync.decide

    def put(change):
        async def adecide(request):
            return change(real(request))

        monkeypatch.setattr(plane.plane.sync, "decide", lambda request: change(real(request)))
        monkeypatch.setattr(plane.plane.aio, "decide", adecide, raising=False)

    return put


def attempt(face, expected, **options):
    """Call a tool that must not run, as a function and as a generator; return the errors."""
    ran, errors = [], []

    def body():
        ran.append("stream")
        yield 1

    async def scenario():
        call = face.tool(lambda text="hello": ran.append("call"), name="careful", **options)
        stream = face.tool(body, name="careful_stream", **options)
        async with face.session():
            for action in (lambda: face.call(call), lambda: face.items(stream)):
                with pytest.raises(expected) as caught:
                    await action()
                errors.append(caught.value)

    face.run(scenario)
    assert ran == []
    return errors


def test_an_unknown_outcome_blocks(plane, face, answers):
    answers(lambda decision: msgspec.structs.replace(decision, outcome="perhaps\x1b[31m"))
    for error in attempt(face, PolicyBlockError):
        assert error.blocked_by == "unknown-outcome"
        assert r"refused with outcome 'perhaps\\x1b[31m'; nothing ran" in str(error)
        assert error.task_id
        assert error.audit_url in str(error)


def test_an_unknown_obligation_blocks_and_is_settled(plane, face, answers):
    answers(lambda decision: msgspec.structs.replace(decision, obligations=(Notarise(),)))
    for error in attempt(face, PolicyBlockError):
        assert error.blocked_by == "unknown-obligation"
        assert "an obligation that this version cannot carry out (Notarise); nothing ran" in str(error)
        assert "secret-notary" not in str(error)
    assert [e.status for e in plane.events(type="call.ended")] == ["failed", "failed"]


def test_an_obligation_on_arguments_that_are_not_there_blocks(plane, face, answers):
    nowhere = RedactArguments(redactions=(Redaction(kind="X", start=0, end=2, replacement="[X]", where="/other"),))
    beyond = RedactArguments(redactions=(Redaction(kind="X", start=0, end=99, replacement="[X]", where="/text"),))
    for obligation in (nowhere, beyond):
        answers(lambda decision, it=obligation: msgspec.structs.replace(decision, obligations=(it,)))
        assert attempt(face, PolicyBlockError)[0].blocked_by == "argument-not-redactable"


def test_an_allow_with_a_refusal_in_it_blocks(plane, face, answers):
    answers(lambda decision: msgspec.structs.replace(decision, refusal=PolicyBlock(blocked_by="torn")))
    assert {error.blocked_by for error in attempt(face, PolicyBlockError)} == {"torn"}


def test_a_block_without_a_refusal_blocks_and_names_the_rule(plane, face, answers):
    rules = (RuleMatch(id="first"),)
    answers(lambda decision: msgspec.structs.replace(decision, outcome="block", rules=rules))
    assert {error.blocked_by for error in attempt(face, PolicyBlockError)} == {"first"}
    answers(lambda decision: msgspec.structs.replace(decision, outcome="needs_approval"))
    assert {error.blocked_by for error in attempt(face, PolicyBlockError)} == {"needs_approval"}


def test_a_tier_that_is_too_low_blocks(plane, face, answers):
    refusal = TierDenied(required_tier="trusted", actual_tier="standard")
    answers(lambda decision: msgspec.structs.replace(decision, outcome="block", refusal=refusal))
    for error in attempt(face, TrustTierDenied):
        assert (error.required_tier, error.actual_tier) == ("trusted", "standard")


@pytest.mark.parametrize(
    ("on_tool", "on_session", "runs"),
    [(None, None, False), (True, None, True), (None, True, True), (False, True, False), (True, False, True)],
)
def test_an_override_in_force_blocks_whoever_had_not_agreed_to_it(on_tool, on_session, runs, plane, face, answers):
    glass = BreakGlass(level="relax", expires_at="2026-01-31T10:00:00Z")
    answers(lambda decision: msgspec.structs.replace(decision, break_glass=glass))
    ran = []

    async def scenario():
        call = face.tool(lambda: ran.append(1), name="careful", respect_breakglass=on_tool)
        async with face.session(respect_breakglass=on_session):
            if runs:
                await face.call(call)
                return
            for _ in range(2):
                with pytest.raises(BreakGlassActive, match="nothing ran") as caught:
                    await face.call(call)
                assert (caught.value.level, caught.value.expires_at) == ("relax", "2026-01-31T10:00:00Z")

    face.run(scenario)
    assert ran == [1] * runs
    statuses = [e.status for e in plane.events(type="call.ended")]
    assert statuses == (["completed"] if runs else ["failed", "failed"]), "an override is asked about each time"


@pytest.mark.parametrize("answer", [None, "allow", 1, Decision(outcome="", correlation=None)])
def test_an_answer_that_is_none_blocks(answer, plane, face, answers):
    answers(lambda _: answer)
    attempt(face, Exception)


def test_a_plane_that_cannot_be_reached_blocks_until_it_can(plane, face, answers, monkeypatch):
    def fail(_):
        raise TapPassConnectionError("the plane does not answer; nothing ran")

    async def afail(_):
        fail(_)

    with monkeypatch.context() as here:
        here.setattr(plane.plane.sync, "decide", fail)
        here.setattr(plane.plane.aio, "decide", afail)
        attempt(face, TapPassConnectionError)

    async def scenario():
        async with face.session():
            return await face.call(face.tool(lambda: "ran", name="careful_again"))

    assert face.run(scenario) == "ran"


@pytest.mark.parametrize(
    ("when", "why"),
    [
        ("args.amount > 10", "condition failed"),
        ("args.nothing == 1", "condition failed"),
        ("int(args.text) > 1", "condition failed"),
        ("args.list[5] == 1", "condition failed"),
        ("1 / args.zero == 1", "condition failed"),
    ],
)
def test_a_condition_that_fails_blocks_and_names_its_rule_but_nothing_of_the_arguments(when, why, plane, face):
    plane.policy(f"""
        version: 1
        rules:
          - {{id: shaky, tool: odd_call, when: '{when}', effect: allow}}
    """)
    ran = []

    async def scenario():
        def odd(**more):
            ran.append(more)

        call = face.tool(odd, name="odd_call")
        with pytest.raises(PolicyBlockError) as caught:
            await face.call(call, amount="planted-secret", text="planted-secret", list=[], zero=0)
        return caught.value

    error = face.run(scenario)
    assert ran == []
    assert error.blocked_by == "shaky"
    assert "rule `shaky` (policy.yaml:3)" in str(error)
    assert "planted-secret" not in str(error)


def test_a_detector_that_fails_blocks_and_withholds(plane, face, monkeypatch):
    from tappass.engine.detect.detectors import Detectors

    plane.policy("version: 1\nrules:\n  - {id: m, tool: careful*, effect: redact, fields: [result], kinds: [EMAIL]}\n")

    def fail(*_args, **_kwargs):
        raise ZeroDivisionError("planted-secret")

    with monkeypatch.context() as here:
        here.setattr(Detectors, "inspect", fail)
        error = attempt(face, PolicyBlockError)[0]
        assert error.blocked_by == "detector-failed"
        assert "ZeroDivisionError" in str(error)
        assert "planted-secret" not in str(error)
    real, ran = Detectors.inspect, []
    with monkeypatch.context() as here:

        async def scenario():
            call = face.tool(lambda: [ran.append(here.setattr(Detectors, "inspect", fail))], name="careful_too")
            with pytest.raises(PolicyBlockError, match="ran, but a detector failed on its result"):
                await face.call(call)

        face.run(scenario)
    assert Detectors.inspect is real
    assert len(ran) == 1


def test_settling_that_fails_never_replaces_the_error_in_flight(plane, face, monkeypatch):
    class Own(Exception):
        pass

    def fail(_ending):
        raise TapPassConnectionError("cannot settle")

    async def afail(_ending):
        raise TapPassConnectionError("cannot settle")

    monkeypatch.setattr(plane.plane.sync, "settle", fail)
    monkeypatch.setattr(plane.plane.aio, "settle", afail, raising=False)

    def bad():
        raise Own

    def bad_stream():
        yield 1
        raise Own

    async def scenario():
        with pytest.raises(Own):
            await face.call(face.tool(bad, name="bad"))
        with pytest.raises(Own):
            await face.items(face.tool(bad_stream, name="bad_stream"))

    face.run(scenario)


def test_what_policy_cannot_see_is_refused_before_anything_is_decided(plane, face):
    ran = []
    bad = {
        "nan": float("nan"),
        "inf": [float("-inf")],
        "object": {"x": object()},
        "number key": {1: 2},
        "half a surrogate": "\ud800",
        "half a surrogate in a key": {"\udfff": 1},
        "function": len,
        "class": dict,
        "iterator": iter([1]),
        "generator": (i for i in ()),
        "complex": 1j,
        "too many digits": 10**5000,
    }

    async def scenario():
        call = face.tool(lambda value: ran.append(value), name="careful")
        for value in bad.values():
            with pytest.raises(TapPassConfigError, match="`careful` was not run: argument `value` cannot be shown"):
                await face.call(call, value)

    face.run(scenario)
    assert ran == []
    assert plane.events(type="call.decided") == []
