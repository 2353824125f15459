"""A bad policy never loads, and the message names file, line and column of everything that is wrong."""

from __future__ import annotations

import pickle

import pytest

from tappass.engine.policy.files import PolicySources
from tappass.engine.policy.load import load
from tappass.engine.policy.problems import problems_of
from tappass.errors import TapPassConfigError

KINDS = frozenset({"EMAIL", "US_SSN"})
RULE = "version: 1\nrules:\n  - id: a\n    tool: send\n    effect: {effect}\n    {line}\n"


def problems(text: str) -> list[str]:
    with pytest.raises(TapPassConfigError) as caught:
        load([("policy.yaml", text.encode())], KINDS)
    assert all(str(problem) in str(caught.value) for problem in problems_of(caught.value))
    return [str(problem) for problem in problems_of(caught.value)]


def of_rule(line: str, effect: str = "block") -> list[str]:
    return problems(RULE.format(line=line, effect=effect))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the file is empty; it needs at least `version: 1`"),
        ("# only a comment\n", "1:1: the file is empty; it needs at least `version: 1`"),
        ("rules: []", "1:1: `version` is missing; write `version: 1`"),
        ("version: 2", "1:10: this version of tappass reads `version: 1`"),
        ("version: 1\nrule: []", "2:1: unknown key `rule` in a policy; did you mean `rules`?"),
        ("version: 1\nrules: {}", "2:8: `rules` must be a list, not a mapping"),
        ("version: 1\ndefault: deny", "2:10: unknown default `deny`; known: `allow`, `block`"),
        ("version: 1\nallow_observe: yes", "2:16: `allow_observe` must be true or false, not true/false"),
        ("version: 1\nallow_observe: 'true'", "2:16: `allow_observe` must be true or false, not text"),
        ("- version: 1", "1:1: a policy must be a mapping, not a list"),
        ("version: 1\nversion: 1", "2:1: `version` stands here twice"),
        ("version: 1\nrules:\n  - {id: a, id: b, effect: block}", "3:13: `id` stands here twice"),
        ("version: 1\nrules: [}", "2:9: not valid YAML: "),
        ("version: 1\n---\nversion: 1", "2:1: not valid YAML: "),
        (
            "version: 1\nrules: !!python/object:os.system []",
            "2:8: tags and merge keys (`!`, `<<`) are not accepted, as here `python/object:os.system`",
        ),
        ("version: 1\ndefault: \x07", "1:1: not valid YAML: "),
        ("version: 1\nrules: [{}]", "2:9: this rule is empty"),
        ("version: 1\nrules: [a]", "2:9: a rule must be a mapping, not text"),
        ("version: 1\nrules:\n  -", "3:4: a rule must be a mapping, not empty"),
        ("version: 1\ndetect: {secret: {}}", "2:10: unknown key `secret` in `detect`; did you mean `secrets`?"),
        ("version: 1\ndetect: {pii: {results: flag}}", "2:16: unknown key `results` in `detect.pii`; did you mean"),
        ("version: 1\ndetect: {pii: {result: mask}}", "2:24: unknown action `mask`; known: `allow`, `flag`"),
        ("version: 1\ndetect: {pii: flag}", "2:15: `detect.pii` must be a mapping, not text"),
        ("version: 1\nbudgets: {week: {usd: 1}}", "2:11: unknown key `week` in `budgets`; known: `call`"),
        ("version: 1\nbudgets: {day: {eur: 1}}", "2:17: unknown key `eur` in `budgets.day`; "),
        ("version: 1\nbudgets: {day: {usd: -1}}", "2:22: a limit of `usd` is a number, 0 or more"),
        ("version: 1\nbudgets: {day: {usd: .nan}}", "2:22: a limit of `usd` is a number, 0 or more"),
        ("version: 1\nbudgets: {day: {usd: 1e9}}", "2:22: a limit of `usd` is a number, 0 or more"),
        ("version: 1\nbudgets: {day: {tool_calls: 1.5}}", "2:29: a limit of `tool_calls` is a whole number"),
        ("version: 1\nbudgets: {day: {usd: [1]}}", "2:22: a limit of `usd` is a number, 0 or more"),
    ],
)
def test_what_is_wrong_in_a_file(text, expected):
    (found,) = problems(text)
    assert found.startswith(f"policy.yaml:{expected}")


@pytest.mark.parametrize(
    ("effect", "line", "expected"),
    [
        ("block", "tol: x", "6:5: unknown key `tol` in a rule; did you mean `tool`?"),
        ("blok", "", "5:13: unknown effect `blok`; did you mean `block`?"),
        ("block", "llm: '*'", "6:10: a rule is for tools or for models; write two rules, or leave both out"),
        ("block", "approvers: 2", "6:16: `approvers` belongs to `effect: require_approval`, and this rule's effect is"),
        ("allow", "expires_in: 1h", "6:17: `expires_in` belongs to `effect: require_approval`"),
        ("redact", "tier: trusted", "5:13: `effect: redact` needs `fields`"),
        ("block", "fields: [result]", "6:13: `fields` belongs to `effect: redact`"),
        ("block", "kinds: [EMAIL]", "6:12: `kinds` belongs to `effect: redact`"),
        ("require_tier", "", "5:13: `effect: require_tier` needs `tier`"),
        ("require_tier", "tier: root", "6:11: unknown tier `root`; known: `untrusted`"),
        ("require_approval", "approvers: 0", "6:16: `approvers` must be a whole number from 1 to 100"),
        ("require_approval", "approvers: two", "6:16: `approvers` must be a whole number, not text"),
        ("require_approval", "approvers: 0x10", "6:16: `approvers` must be a whole number from 1 to 100"),
        ("require_approval", "expires_in: 1 hour", "6:17: `expires_in` is a duration such as"),
        ("require_approval", "expires_in: 90", "6:17: `expires_in` is a duration such as"),
        ("require_approval", "expires_in: 0s", "6:17: `expires_in` is a duration such as"),
        ("require_approval", "expires_in: 9999d", "6:17: `expires_in` is a duration such as"),
        ("redact", "fields: []", "6:13: `fields` is empty"),
        ("redact", "fields: result", "6:13: `fields` must be a list, not text"),
        ("redact", "fields: [reslt]", "6:14: unknown field `reslt`; did you mean `result`?"),
        ("redact", "fields: [prompt]", "6:14: a tool has no `prompt`; write `arguments`, or `args.<name>`"),
        ("redact", "fields: [result, result]", "6:22: `result` stands here twice"),
        ("block", "agent: ''", "6:12: `agent` is empty"),
        ("block", "agent: null", "6:12: `agent` must be text, not empty"),
        ("block", "agent: [a]", "6:12: `agent` must be text, not a list"),
        ("block", "agent: '[ab]*'", "6:12: `agent` is a glob of `*` and `?`; `[`, `]`, `{`, `}` are not part of it"),
        ("block", f"agent: {'a' * 201}", "6:12: `agent` is longer than 200 characters"),
        ("block", 'message: "two\\nlines"', "6:14: `message` must be one line of printable text"),
        ("block", "when: ''", "6:11: `when` is empty"),
    ],
)
def test_what_is_wrong_in_a_rule(effect, line, expected):
    found = of_rule(line, effect)
    assert any(problem.startswith(f"policy.yaml:{expected}") for problem in found), found


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("{effect: block}", "3:5: this rule has no `id`; errors and the log name rules by it"),
        ("{id: a}", "3:5: this rule has no `effect`; one of `allow`"),
        ("{id: a b, effect: block}", "3:10: an `id` is made of letters"),
        ("{id: default, effect: block}", "3:10: the id `default` is taken: a setting is called so"),
        ("{id: detect.pii.result, effect: block}", "3:10: the id `detect.pii.result` is taken"),
        (
            "{id: a, effect: redact, fields: [result], kinds: [EMIAL]}",
            "3:55: unknown kind `EMIAL`; did you mean `EMAIL`?",
        ),
        ("{id: a, effect: redact, fields: [result], kinds: []}", "3:54: `kinds` is empty"),
        ("{id: a, llm: x, effect: redact, fields: [arguments]}", "3:46: what a model is given is its `prompt`"),
        ("{id: a, llm: x, effect: redact, fields: [args.to]}", "3:46: a model has no argument `to`"),
        ("{id: a, llm: x, mcp_server: y, effect: block}", "3:33: a model has no `mcp_server`"),
        ("{id: a, llm: x, effect: block, when: args.promt == 'x'}", "3:46: a model has no argument `promt`; did you"),
        ("{id: a, effect: block, when: args.amount > 1}", "3:38: a model has no argument `amount`, and this rule is"),
    ],
)
def test_what_is_wrong_in_a_rule_on_one_line(rule, expected):
    found = problems(f"version: 1\nrules:\n  - {rule}\n")
    assert found[0].startswith(f"policy.yaml:{expected}"), found


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("when: agent.teir == 1", "6:16"),
        ("when: 'agent.teir == 1'", "6:17"),
        ("when: '\"it''s ''it''\" == agent.teir'", "6:35"),
        ('when: "\\"x\\\\n\\u00e9\\" == agent.teir"', "6:35"),
        ('when: "\\"é\\" ==\\tagent.teir"', "6:27"),
        ("when: true &&\n      agent.teir == 1", "7:12"),
        ("when: 'true &&\n\n      agent.teir == 1'", "8:12"),
        ("when: |\n      true &&\n        agent.teir == 1", "8:14"),
        ("when: |2-  # why\n        agent.teir == 1\n", "7:14"),
        ("when: >\n      true &&\n      agent.teir == 1\n", "8:12"),
        ("when: >-\n\n      true\n\n      && agent.teir == 1\n", "10:15"),
    ],
)
def test_a_misspelt_fact_is_shown_where_it_stands_however_it_is_written(written, place):
    assert of_rule(written) == [f"policy.yaml:{place}: unknown fact `agent.teir`; did you mean `agent.tier`?"]


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("agent.tier ==", "6:24: Syntax error: mismatched input '<EOF>'"),
        ("args.to.endswith(1)", "6:27: unknown name or function `endswith`; facts are `agent`, `args`"),
        ("agent == 1", "6:11: unknown fact `agent`; did you mean"),
        ("agent.tier > 5", "6:22: found no matching overload for '_>_' applied to '(string, int)'"),
        ("size(args)", "6:11: a condition is true or false, and this is int"),
        ("findings.exists(f, f.knd == 1)", "6:31: a finding has no `knd`; did you mean `kind`?"),
        ('args.to.matches("(a")', "6:27: not a valid RE2 pattern: missing ): (a"),
        ("budget.week.usd > 1", "6:22: unknown fact `budget.week.usd`; did you mean"),
        ("now.getHour() < 8", "6:22: unknown name or function `getHour`"),
    ],
)
def test_what_is_wrong_in_a_condition(when, expected):
    (found,) = of_rule(f"when: {when}")
    assert found.startswith(f"policy.yaml:{expected}")


def test_all_problems_of_all_files_come_at_once_sorted():
    files = [
        ("policies/b.yaml", b"version: 1\nrules: [{id: a, effect: block}, {id: x, effect: nope}]"),
        ("policies/a.yaml", b"version: 1\nrules: [{id: a, effect: block, when: agent.no && agent.neither}]"),
    ]
    with pytest.raises(TapPassConfigError) as caught:
        load(files, KINDS)
    assert [(p.file, p.line, p.column) for p in problems_of(caught.value)] == [
        ("policies/a.yaml", 2, 9),
        ("policies/a.yaml", 2, 43),
        ("policies/a.yaml", 2, 55),
        ("policies/b.yaml", 2, 49),
    ]
    assert "the id `a` is taken by the rule at policies/b.yaml:2" in str(caught.value)
    assert problems_of(pickle.loads(pickle.dumps(caught.value))) == problems_of(caught.value)
    assert type(caught.value) is TapPassConfigError


@pytest.mark.parametrize(
    "said", ["default: block", "allow_observe: true", "detect: {pii: {result: flag}}", "budgets: {day: {usd: 2}}"]
)
def test_files_that_contradict_each_other_are_refused(said):
    other = said.replace("block", "allow").replace("true", "false").replace("flag", "block").replace("2}", "3}")
    files = [("a.yaml", f"version: 1\n{said}".encode()), ("b.yaml", f"version: 1\n{other}".encode())]
    with pytest.raises(TapPassConfigError, match=r"b.yaml:2:\d+: .*something else in a.yaml:2"):
        load(files, KINDS)
    agreed = [("a.yaml", f"version: 1\n{said}".encode()), ("b.yaml", f"version: 1\n{said}".encode())]
    assert load(agreed, KINDS).document.content() == load(agreed[:1], KINDS).document.content()


@pytest.mark.parametrize(
    "bomb",
    [
        "version: 1\nx: &a [1]\nrules: *a",
        "a: &a [x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "version: 1\nrules: &r [*r]",
        "version: 1\nbase: &b {effect: block}\nrules: [{<<: *b, id: a}]",
        "[" * 2000 + "]" * 2000,
        "x: " + "{a: " * 500 + "}" * 500,
    ],
)
def test_files_that_grow_when_read_are_refused(bomb):
    assert problems(bomb)


def test_a_file_that_is_no_text_or_too_large_is_refused():
    with pytest.raises(TapPassConfigError, match="not UTF-8"):
        load([("policy.yaml", b"version: 1 # \xff")], KINDS)
    with pytest.raises(TapPassConfigError, match="larger than"):
        load([("policy.yaml", b"version: 1\n#" + b"x" * 4_000_000)], KINDS)


def test_words_that_yaml_takes_for_others_are_text_where_text_is_meant():
    policy = PolicySources.of("version: 1\nrules: [{id: no, tool: 2024-01-01, agent: 12, effect: block}]")
    (rule,) = policy.load_policy(KINDS).document.rules
    assert (rule.id, rule.tool, rule.agent) == ("no", "2024-01-01", "12")


def test_values_are_read_as_typed():
    text = """
version: 1
default: block
allow_observe: true
rules:
  - {id: a, tool: pay, effect: require_approval, approvers: 2, expires_in: 1d2h3m4s}
  - {id: b, effect: redact, fields: [result, args.to], kinds: [pii, EMAIL, pii]}
budgets: {session: {usd: 5.50, tool_calls: 500}}
"""
    document = PolicySources.of(text).load_policy(KINDS).document
    a, b = document.rules
    assert (document.default, document.allow_observe, document.default_source) == ("block", True, "policy.yaml:2")
    assert (a.approvers, a.expires_in_s, a.source) == (2, 93_784, "policy.yaml:5")
    assert (b.fields, b.kinds, b.source) == (("args.to", "result"), ("EMAIL", "pii"), "policy.yaml:6")
    assert [(x.scope, x.measure, x.limit) for x in document.budgets] == [
        ("session", "tool_calls", "500"),
        ("session", "usd", "5.5"),
    ]
