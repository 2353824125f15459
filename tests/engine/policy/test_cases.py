"""Cases beside the rules, and trying out a call that nobody makes."""

from __future__ import annotations

import pytest

from tappass.engine.detect.detectors import Detectors, catalogue
from tappass.engine.policy.cases import run_cases
from tappass.engine.policy.files import PolicySources, case_files
from tappass.engine.policy.policy import Policy
from tappass.engine.policy.trial import arguments_of, call_facts
from tappass.errors import TapPassConfigError

POLICY = """
version: 1
rules:
  - {id: inside, tool: send_email, when: '!args.to.endsWith("@acme.com")', effect: block}
  - {id: night, tool: deploy, when: now.getHours() < 8, effect: block}
  - {id: trust, tool: delete_*, effect: require_tier, tier: trusted}
  - {id: sign, mcp_server: bank, effect: require_approval}
  - {id: no-cats, llm: "*", when: args.prompt.contains("cat"), effect: block}
  - {id: acme, session: "*", tool: crm, when: 'session.metadata.customer == "acme"', effect: block}
detect: {pii: {arguments: redact}, secrets: {arguments: block}}
"""


@pytest.fixture
def run(tmp_path):
    def running(text: str):
        (tmp_path / "policy.test.yaml").write_text(text)
        policy = PolicySources.of(POLICY).load_policy(frozenset(catalogue()))
        return run_cases(policy, case_files(tmp_path), Detectors())

    return running


PASSING = """
cases:
  - {name: outside, tool: send_email, args: {to: eve@evil.example}, expect: block}
  - {tool: send_email, args: {to: ann@acme.com}, expect: {outcome: allow, rules: [detect.pii.arguments], redacts: true}}
  - {tool: send_email, args: {to: "@acme.com"}, expect: {outcome: allow, rules: [], redacts: false}}
  - tool: send_email
    args: {to: "@acme.com"}
    findings: [JWT]
    expect: {outcome: block, blocked_by: detect.secrets.arguments}
  - {tool: send_email, args: {to: ann@acme.com}, findings: [], expect: {outcome: allow, redacts: false}}
  - {tool: deploy, now: 2026-01-01T07:59:00Z, expect: block}
  - {tool: deploy, now: 2026-01-01T09:59:00+01:00, expect: allow}
  - {tool: delete_all, expect: require_tier}
  - {tool: delete_all, agent: {name: bot, tier: privileged}, expect: allow}
  - {tool: pay, mcp_server: bank, expect: {outcome: require_approval, blocked_by: sign}}
  - {llm: gpt-4o, args: {prompt: about cats}, expect: block}
  - {llm: gpt-4o, expect: allow}
  - {tool: crm, session: {metadata: {customer: acme}, implicit: true}, expect: block}
"""


def test_cases_that_hold_pass(run):
    results = run(PASSING)
    assert [result.problems for result in results] == [()] * 13
    assert [(result.name, result.source) for result in results[:2]] == [
        ("outside", "policy.test.yaml:3"),
        ("tool send_email", "policy.test.yaml:4"),
    ]


def test_a_case_that_does_not_hold_says_what_came_instead(run):
    (result,) = run("cases: [{tool: send_email, args: {to: x}, expect: {outcome: allow, rules: [a], redacts: true}}]")
    assert not result.passed
    assert result.problems == (
        "expected allow, got block: blocked by rule `inside` (policy.yaml:3)",
        "expected rules a, got inside",
        "expected arguments to be redacted",
    )


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("{expect: allow}", "1:9: a case is a call of a `tool` or of an `llm`, and names one"),
        ("{tool: a, llm: b, expect: allow}", "1:9: a case is a call of"),
        ("{tool: a}", "1:9: this case has no `expect`"),
        ("{tool: a, expect: deny}", "1:27: unknown outcome `deny`; known"),
        ("{tool: a, expect: {rules: []}}", "1:27: `expect` needs an `outcome`"),
        ("{tool: a, expect: allow, arg: {}}", "1:34: unknown key `arg` in a case; did you mean `args`?"),
        ("{tool: a, expect: allow, args: []}", "1:40: `args` must be a mapping, not a list"),
        ("{tool: a, expect: allow, args: {x: .nan}}", "1:44: NaN and infinity never reach policy"),
        ("{tool: a, expect: allow, now: noon}", "1:39: `now` is a moment such as"),
        ("{tool: a, expect: allow, agent: {tier: x}}", "1:48: unknown tier `x`"),
        ("{tool: a, expect: allow, session: {metadata: x}}", "1:54: `metadata` must be a mapping"),
        ("{tool: a, expect: allow, budget: {session.eur: 1}}", "1:43: unknown key `session.eur` in `budget`"),
        ("{tool: a, expect: allow, budget: {day.usd: -1}}", "1:52: `day.usd` is a number, 0 or more"),
        ("{tool: a, expect: allow, findings: [EMIAL]}", "1:45: unknown finding kind `EMIAL`; did you mean `EMAIL`?"),
    ],
)
def test_what_is_wrong_in_a_case(run, case, expected):
    with pytest.raises(TapPassConfigError) as caught:
        run(f"cases: [{case}]")
    assert f"policy.test.yaml:{expected}" in str(caught.value)


def test_cases_lie_beside_the_rules_and_are_none(tmp_path):
    (tmp_path / "policies").mkdir()
    for name in ("policy.test.yaml", "policies/b.test.yaml", "policies/a.test.yaml", "policies/a.yaml"):
        (tmp_path / name).write_text("version: 1")
    assert [path.name for path in case_files(tmp_path)] == ["policy.test.yaml", "a.test.yaml", "b.test.yaml"]


def test_words_give_arguments_json_where_it_is_json_else_text():
    words = ["to=a@b.c", "amount=1200", "rate=1.5", "tags=[1, 2]", "note=", "eq=a=b", "flag=true", "n=NaN", 'text="7"']
    assert arguments_of(words) == {
        "to": "a@b.c",
        "amount": 1200,
        "rate": 1.5,
        "tags": [1, 2],
        "note": "",
        "eq": "a=b",
        "flag": True,
        "n": "NaN",
        "text": "7",
    }


@pytest.mark.parametrize("words", [["a@b.c"], ["=x"], ["to=1", "to=2"]])
def test_words_without_a_name_or_twice_are_refused(words):
    with pytest.raises(TapPassConfigError) as caught:
        arguments_of(words)
    assert "a@b.c" not in str(caught.value).replace("`to=a@b.c amount=1200`", "")


def test_a_model_call_can_be_tried_without_every_argument():
    verdict = Policy.built_in().evaluate(call_facts("llm", "gpt-4o", {"prompt": "hi"}))
    assert verdict.outcome == "allow"
    assert call_facts("llm", "gpt-4o", {}).arguments["model"] == "gpt-4o"


def test_nothing_is_spent_in_a_case_unless_it_says_so(tmp_path):
    rules = "[{id: enough, when: budget.session.usd + double(budget.call.tool_calls) > 4.5, effect: block}]"
    policy = PolicySources.of(f"version: 1\nrules: {rules}").load_policy(frozenset())
    (tmp_path / "policy.test.yaml").write_text("""
cases:
  - {name: fresh, tool: pay, expect: allow}
  - {name: nearly, tool: pay, budget: {session.usd: 3.5}, expect: allow}
  - {name: spent, tool: pay, budget: {session.usd: 3.75}, expect: block}
""")
    results = run_cases(policy, case_files(tmp_path), Detectors())
    assert [result.name for result in results if not result.passed] == []
