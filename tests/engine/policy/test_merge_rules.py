"""Every effect and every rule by which matches are merged, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from tappass.engine.policy.facts import Facts, Verdict
from tappass.engine.policy.files import PolicySources
from tappass.engine.policy.policy import Policy
from tappass.wire.findings import Finding
from tappass.wire.obligations import ScanResult

KINDS = frozenset({"EMAIL", "US_SSN", "JWT"})
EMAIL = Finding(kind="EMAIL", category="pii", start=0, end=5, where="/to", score=100, detector="tappass.EMAIL")
KEY = Finding(kind="JWT", category="secrets", start=0, end=5, where="/body/text")
ORDER = Finding(kind="OVERRIDE", category="injection", start=0, end=5, where="/body")


def policy(rules: str = "", top: str = "") -> Policy:
    listed = "".join(f"\n  - {{{rule.strip()}}}" for rule in rules.split("\n") if rule.strip()) or " []"
    return PolicySources.of(f"version: 1\n{top}\nrules:{listed}\n").load_policy(KINDS)


def call(name: str = "pay", **more: Any) -> Facts:
    given: dict[str, Any] = {"kind": "tool", "arguments": {"amount": 5, "to": "a@b.c"}, "agent_tier": "standard"}
    return Facts(name=name, **(given | more))


def ids(verdict: Verdict) -> list[str]:
    return [match.id for match in verdict.matches]


ALLOW = "id: allow, tool: pay, effect: allow"
BLOCK = "id: block, tool: pay, effect: block"
REDACT = "id: redact, tool: pay, effect: redact, fields: [result]"
TRUSTED = "id: trusted, tool: pay, effect: require_tier, tier: trusted"
STANDARD = "id: standard, tool: pay, effect: require_tier, tier: standard"
APPROVE = "id: approve, tool: pay, effect: require_approval"
BY_DEFAULT = "default: block"


@pytest.mark.parametrize(
    ("rules", "top", "outcome", "blocked_by"),
    [
        ([], "", "allow", ""),
        ([ALLOW], "", "allow", ""),
        ([REDACT], "", "allow", ""),
        ([BLOCK], "", "block", "block"),
        ([TRUSTED], "", "require_tier", "trusted"),
        ([STANDARD], "", "allow", ""),
        ([APPROVE], "", "require_approval", "approve"),
        ([ALLOW, BLOCK], "", "block", "block"),
        ([TRUSTED, BLOCK], "", "block", "block"),
        ([APPROVE, BLOCK], "", "block", "block"),
        ([TRUSTED, APPROVE], "", "require_tier", "trusted"),
        ([STANDARD, APPROVE], "", "require_approval", "approve"),
        ([ALLOW, APPROVE], "", "require_approval", "approve"),
        ([ALLOW, TRUSTED], "", "require_tier", "trusted"),
        ([ALLOW, REDACT], "", "allow", ""),
        ([], BY_DEFAULT, "block", "default"),
        ([ALLOW], BY_DEFAULT, "allow", ""),
        ([REDACT], BY_DEFAULT, "block", "default"),
        ([STANDARD], BY_DEFAULT, "block", "default"),
        ([TRUSTED], BY_DEFAULT, "require_tier", "trusted"),
        ([APPROVE], BY_DEFAULT, "require_approval", "approve"),
        ([APPROVE, STANDARD, REDACT], BY_DEFAULT, "require_approval", "approve"),
        ([ALLOW, STANDARD, REDACT], BY_DEFAULT, "allow", ""),
        ([ALLOW, BLOCK], BY_DEFAULT, "block", "block"),
    ],
)
def test_the_most_severe_effect_decides_and_all_matches_are_named(rules, top, outcome, blocked_by):
    for order in (rules, rules[::-1]):
        verdict = policy("\n".join(order), top).evaluate(call())
        assert (verdict.outcome, verdict.blocked_by) == (outcome, blocked_by)
        assert ids(verdict) == sorted(rule.partition(",")[0].removeprefix("id: ") for rule in rules)
        assert bool(verdict.reason) is (outcome != "allow")


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (BLOCK, "blocked by rule `block` (policy.yaml:4)"),
        (f"{BLOCK}\nid: also, effect: block", "blocked by rule `also` (policy.yaml:5) (and 1 more)"),
        (f"{BLOCK}, message: Ask Ann", "blocked by rule `block` (policy.yaml:4): Ask Ann"),
        (TRUSTED, "blocked by rule `trusted` (policy.yaml:4): it needs trust tier trusted, the agent has standard"),
        (APPROVE, "blocked by rule `approve` (policy.yaml:4): it needs an approval"),
    ],
)
def test_the_reason_names_the_rule_and_where_it_is_written(rules, reason):
    assert policy(rules).evaluate(call()).reason == reason


def test_the_reason_of_the_default_names_its_line():
    assert (
        policy(top=BY_DEFAULT).evaluate(call()).reason
        == "blocked by `default: block` (policy.yaml:2): no rule allows it"
    )


def test_what_unmatched_rules_say_does_not_count():
    verdict = policy("id: no, tool: pay, when: args.amount > 9, effect: block, classification: SECRET").evaluate(call())
    assert (verdict.outcome, verdict.classification, verdict.matches) == ("allow", "", ())


@pytest.mark.parametrize(
    ("narrowing", "facts", "matched"),
    [
        ("tool: pay*", {"name": "pay_all"}, True),
        ("tool: pay*", {"name": "Pay"}, False),
        ("tool: p?y", {"name": "pay"}, True),
        ("tool: pay", {"kind": "llm"}, False),
        ('llm: "*"', {"kind": "tool"}, False),
        ("llm: gpt-*", {"kind": "llm", "name": "gpt-4o"}, True),
        ("agent: book*", {"agent_name": "bookkeeper"}, True),
        ("agent: book*", {"agent_name": "other"}, False),
        ("session: nightly", {"session_name": "nightly"}, True),
        ("session: nightly", {"session_name": ""}, False),
        ("mcp_server: crm", {"server": "crm"}, True),
        ('mcp_server: "*"', {"server": ""}, False),
        ('mcp_server: "*"', {"kind": "llm", "server": "x"}, False),
        ("tool: pay, agent: a, session: b", {"agent_name": "a", "session_name": "b"}, True),
        ("tool: pay, agent: a, session: b", {"agent_name": "a", "session_name": "c"}, False),
        ("classification: ANY", {"kind": "tool"}, True),
        ("classification: ANY", {"kind": "llm"}, True),
    ],
)
def test_rules_are_for_the_calls_their_globs_name(narrowing, facts, matched):
    made = policy(f"id: r, {narrowing}, effect: block")
    for _ in range(2):
        assert (made.evaluate(call(**facts)).outcome == "block") is matched


def test_narrowing_is_not_remembered_from_another_agent_or_session():
    made = policy("id: r, agent: a, effect: block\nid: s, session: x, effect: block")
    outcomes = [
        made.evaluate(call(agent_name=agent, session_name=session)).outcome
        for agent, session in (("b", "y"), ("a", "y"), ("b", "x"), ("b", "y"))
    ]
    assert outcomes == ["allow", "block", "block", "allow"]


def test_an_unknown_kind_of_call_is_blocked():
    verdict = policy(ALLOW).evaluate(call(kind="workflow"))
    assert (verdict.outcome, verdict.blocked_by) == ("block", "unknown-kind")


@pytest.mark.parametrize("tier", ["", "root", "Trusted", "limited", "untrusted"])
def test_an_unknown_or_lower_tier_does_not_satisfy(tier):
    verdict = policy(STANDARD).evaluate(call(agent_tier=tier))
    assert (verdict.outcome, verdict.required_tier) == ("require_tier", "standard")


def test_the_highest_tier_is_required():
    rules = f"{TRUSTED}\nid: a, effect: require_tier, tier: privileged\n{STANDARD}"
    verdict = policy(rules).evaluate(call(agent_tier="limited"))
    assert (verdict.required_tier, verdict.blocked_by) == ("privileged", "a")
    assert policy(rules).evaluate(call(agent_tier="trusted")).required_tier == "privileged"
    assert policy(rules).evaluate(call(agent_tier="privileged")).outcome == "allow"


def test_approval_rules_add_up():
    verdict = policy(
        "id: a, tool: pay, effect: require_approval, approvers: 2, expires_in: 1h30m, message: Over the limit\n"
        "id: b, tool: '*', effect: require_approval, approvers: 1, expires_in: 45m, message: Two eyes\n"
        "id: c, effect: require_approval"
    ).evaluate(call())
    assert verdict.approval is not None
    assert (verdict.approval.approvers, verdict.approval.expires_in_s) == (2, 2700)
    assert verdict.approval.message == "Over the limit; Two eyes"


def test_the_deciding_rule_classifies():
    rules = "id: a, effect: allow, classification: PUBLIC\nid: b, effect: block, classification: SECRET"
    assert policy(rules).evaluate(call()).classification == "SECRET"
    assert (
        policy("id: a, effect: redact, fields: [result], classification: PII").evaluate(call()).classification == "PII"
    )


@pytest.mark.parametrize("effect", ["allow", "block", "redact, fields: [result]", "require_approval"])
@pytest.mark.parametrize(
    ("when", "why"),
    [
        ("args.missing > 1", "not there"),
        ("args.to > 1", "does not compare"),
        ("args.to", "neither true nor false"),
        ("args.huge > 1", "too large"),
        ("budget.session.usd > 1.0", "not known here"),
        ("args.list.all(x, x >= 0)", "more items"),
        ("args.odd == 'x'", "cannot be evaluated"),
    ],
)
def test_a_condition_that_fails_blocks_and_names_the_rule_but_no_value(effect, when, why):
    made = policy(f'id: r, tool: pay, when: "{when}", effect: {effect}\n{ALLOW}')
    arguments = {"to": "secret-text", "huge": 2**80, "list": [0] * 20_000, "odd": "\ud800"}
    verdict = made.evaluate(call(arguments=arguments))
    assert (verdict.outcome, verdict.blocked_by) == ("block", "r")
    assert why in verdict.reason
    assert "`r` (policy.yaml:4)" in verdict.reason
    assert "secret-text" not in verdict.reason
    assert str(2**80) not in verdict.reason
    assert [(match.id, match.effect) for match in verdict.matches] == [("allow", "allow"), ("r", "failed")]


def test_a_failed_redacting_rule_still_redacts_if_the_call_goes_on_observed():
    verdict = policy(
        "id: r, tool: pay, when: args.no > 1, effect: redact, fields: [result, arguments], kinds: [EMAIL]"
    ).evaluate(call())
    assert verdict.scan is not None
    assert "EMAIL" in verdict.scan.redact
    assert verdict.redacts(EMAIL)


def test_obligations_of_all_matches_add_up():
    verdict = policy(
        "id: a, effect: redact, fields: [result], kinds: [EMAIL]\n"
        "id: b, effect: redact, fields: [result, args.body], kinds: [US_SSN, secrets]\n"
        "id: c, effect: block",
        "detect: {pii: {result: flag}, injection: {result: block}}",
    ).evaluate(call())
    redacted = ("EMAIL", "US_SSN", "secrets")
    assert verdict.scan == ScanResult(redact=redacted, block=("injection",), flag=("pii",), require=True)
    assert verdict.redacts(KEY)
    assert not verdict.redacts(EMAIL)


@pytest.mark.parametrize(
    ("fields", "kind", "finding", "redacted"),
    [
        ("arguments", "tool", EMAIL, True),
        ("arguments", "tool", KEY, False),
        ("arguments", "llm", EMAIL, False),
        ("prompt", "llm", EMAIL, True),
        ("prompt", "tool", EMAIL, False),
        ("args.to", "tool", EMAIL, True),
        ("args.body", "tool", EMAIL, False),
        ("result", "tool", EMAIL, False),
        ("args.a/b~c", "tool", Finding(kind="EMAIL", start=0, end=1, where="/a~1b~0c/0"), True),
    ],
)
def test_only_the_named_fields_are_redacted(fields, kind, finding, redacted):
    made = policy(f"id: r, effect: redact, fields: ['{fields}'], kinds: [EMAIL]")
    assert made.evaluate(call(kind=kind, findings=(finding,))).redacts(finding) is redacted


def test_a_redacting_rule_without_kinds_takes_personal_data_and_secrets():
    verdict = policy("id: r, effect: redact, fields: [arguments]").evaluate(call())
    assert [verdict.redacts(finding) for finding in (EMAIL, KEY, ORDER)] == [True, True, False]


def test_without_a_word_on_it_secrets_are_masked_and_nothing_is_withheld_for_being_opaque():
    for made in (Policy.built_in(), policy(), policy(top="detect: {pii: {result: allow}}")):
        verdict = made.evaluate(call(findings=(KEY,)))
        assert verdict.outcome == "allow"
        assert verdict.scan == ScanResult(redact=("secrets",), require=False)
        assert [(match.id, match.effect, match.source) for match in verdict.matches] == [
            ("detect.secrets.arguments", "flag", "")
        ]
        assert not verdict.redacts(KEY)
        assert made.evaluate(call(kind="llm", findings=(KEY,))).redacts(KEY)


@pytest.mark.parametrize(
    ("top", "kind", "finding", "outcome", "blocked_by", "redacted"),
    [
        ("secrets: {arguments: block}", "tool", KEY, "block", "detect.secrets.arguments", False),
        ("secrets: {arguments: block}", "tool", EMAIL, "allow", "", False),
        ("secrets: {arguments: block, prompt: allow}", "llm", KEY, "allow", "", False),
        ("secrets: {prompt: block}", "llm", KEY, "block", "detect.secrets.prompt", False),
        ("secrets: {prompt: block}", "tool", KEY, "allow", "", False),
        ("pii: {arguments: redact}", "tool", EMAIL, "allow", "", True),
        ("pii: {prompt: redact}", "llm", EMAIL, "allow", "", True),
        ("pii: {prompt: flag}", "llm", EMAIL, "allow", "", False),
        ("injection: {prompt: block}", "llm", ORDER, "block", "detect.injection.prompt", False),
        ("pii: {result: block}", "tool", EMAIL, "allow", "", False),
    ],
)
def test_detector_settings_act_like_rules(top, kind, finding, outcome, blocked_by, redacted):
    verdict = policy(top=f"detect: {{{top}}}").evaluate(call(kind=kind, findings=(finding,)))
    assert (verdict.outcome, verdict.blocked_by) == (outcome, blocked_by)
    assert verdict.redacts(finding) is redacted
    if blocked_by:
        assert f"`{blocked_by}` (policy.yaml:2)" in verdict.reason


@pytest.mark.parametrize(
    ("top", "scan"),
    [
        ("secrets: {result: allow}", None),
        ("secrets: {result: redact}", ScanResult(redact=("secrets",), require=True)),
        ("secrets: {result: flag}", ScanResult(flag=("secrets",))),
        ("secrets: {result: block}", ScanResult(block=("secrets",), require=True)),
        ("pii: {result: flag}", ScanResult(redact=("secrets",), flag=("pii",))),
        ("pii: {result: redact}", ScanResult(redact=("pii", "secrets"), require=True)),
    ],
)
def test_results_are_scanned_as_settings_say(top, scan):
    assert policy(top=f"detect: {{{top}}}").evaluate(call()).scan == scan


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ('tool.name == "pay" && tool.kind == "tool" && tool.server == ""', True),
        ('agent.name == "bot" && agent.tier == "standard" && agent.framework == "crewai"', True),
        ('session.name == "nightly" && session.mode == "observe" && session.id == "ses_1"', True),
        ('session.metadata.customer == "acme" && !session.implicit', True),
        ("now.getHours() == 1 && now > timestamp('2026-01-01T00:00:00Z')", True),
        ("budget.session.usd > 4.5", True),
        ('findings.exists(f, f.kind == "EMAIL" && f.where == "/to" && f.score > 90)', True),
        ('findings.filter(f, f.category == "secrets").size() == 0', True),
        ("args.amount == 5.0 && args.amount < 5.5 && args.amount in [5]", True),
        ("has(args.note) || args.?note.orValue('').startsWith('x')", False),
        ('args.to.lowerAscii().endsWith("@B.C".lowerAscii())', True),
        ('"to" in args && args.size() == 2 && args.all(name, name.size() > 0)', True),
        ('args.to.matches("^[a-z]@b")', True),
    ],
)
def test_conditions_read_every_fact(when, holds):
    made = PolicySources.of(f"version: 1\nrules:\n- id: r\n  tool: pay\n  effect: block\n  when: |\n    {when}\n")
    facts = call(
        agent_name="bot",
        agent_framework="crewai",
        session_id="ses_1",
        session_name="nightly",
        session_mode="observe",
        session_metadata={"customer": "acme"},
        now_ns=1_767_229_200_000_000_000,
        budget={"session.usd": 5},
        findings=(EMAIL,),
    )
    verdict = made.load_policy(KINDS).evaluate(facts)
    assert (verdict.outcome == "block") is holds, verdict.reason


def test_the_end_of_a_long_argument_is_seen():
    made = policy("id: r, tool: pay, when: 'args.text.endsWith(\"evil\")', effect: block")
    long = "x" * 200_000
    assert made.evaluate(call(arguments={"text": long + "evil"})).outcome == "block"
    assert made.evaluate(call(arguments={"text": long + "fine"})).outcome == "allow"
