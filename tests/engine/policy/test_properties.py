"""What holds for every policy and every call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tappass.engine.policy.facts import Facts
from tappass.engine.policy.files import PolicySources
from tappass.engine.policy.policy import Policy
from tappass.errors import TapPassConfigError
from tappass.wire.findings import Finding

KINDS = frozenset({"EMAIL"})
SEVERITY = ["allow", "require_approval", "require_tier", "block"]

effects = st.sampled_from(
    [
        {"effect": "allow"},
        {"effect": "block"},
        {"effect": "require_approval", "approvers": 2},
        {"effect": "require_tier", "tier": "trusted"},
        {"effect": "require_tier", "tier": "limited"},
        {"effect": "redact", "fields": ["result"]},
        {"effect": "redact", "fields": ["args.to"], "kinds": ["EMAIL"]},
    ]
)
narrowing = st.fixed_dictionaries(
    {},
    optional={
        "tool": st.sampled_from(["pay", "p*", "?ay", "other", "*"]),
        "agent": st.sampled_from(["bot", "b*", "no"]),
        "when": st.sampled_from(["args.amount > 1", "args.amount > 5000", "args.nope == 1", "has(args.to)"]),
    },
)
bodies = st.builds(lambda effect, narrowed: effect | {"tool": "pay*"} | narrowed, effects, narrowing)
tops = st.fixed_dictionaries(
    {"version": st.just(1)},
    optional={
        "default": st.sampled_from(["allow", "block"]),
        "detect": st.sampled_from([{"secrets": {"arguments": "block"}}, {"pii": {"arguments": "redact"}}]),
        "budgets": st.sampled_from([{"session": {"usd": 5}}, {"day": {"tool_calls": 7, "usd": 1.5}}]),
    },
)


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    rules = draw(st.lists(bodies, max_size=6))
    return draw(tops) | {"rules": [{"id": f"r{number}"} | body for number, body in enumerate(rules)]}


calls = st.builds(
    lambda amount, found, agent: Facts(
        kind="tool",
        name="pay",
        arguments={"amount": amount, "to": "x"},
        agent_name=agent,
        agent_tier="standard",
        findings=found,
    ),
    st.sampled_from([1, 1000, 9999.5, "text", None, 2**70]),
    st.sampled_from(
        [
            (),
            (Finding(kind="EMAIL", category="pii", start=0, end=1, where="/to"),),
            (Finding(kind="JWT", category="secrets", start=0, end=1, where="/to"),),
        ]
    ),
    st.sampled_from(["bot", "default"]),
)


def load(read: Any, dump: Any = yaml.safe_dump) -> Policy:
    # A copy, since YAML's dumper writes what occurs twice as an alias.
    return PolicySources.of(dump(json.loads(json.dumps(read)))).load_policy(KINDS)


def unplaced(verdict: Any) -> Any:
    """What a verdict says, without the lines its rules are written on."""
    said = (verdict.outcome, verdict.blocked_by, verdict.required_tier, verdict.approval, verdict.scan)
    return (*said, verdict.redact, verdict.redact_in, [(match.id, match.effect) for match in verdict.matches])


@given(policies(), calls)
def test_the_most_severe_effect_wins(read, facts):
    verdict = load(read).evaluate(facts)
    alone = [load(read | {"default": "allow", "rules": [rule]}).evaluate(facts).outcome for rule in read["rules"]]
    alone.append(load(read | {"default": "allow", "rules": []}).evaluate(facts).outcome)
    worst = max(alone, key=SEVERITY.index)
    if worst != "allow" or read.get("default") != "block":
        assert verdict.outcome == worst
    else:
        permitted = any(match.effect == "allow" for match in verdict.matches)
        assert verdict.outcome == ("allow" if permitted else "block")


@given(policies(), calls, st.randoms())
def test_the_order_of_rules_changes_nothing(read, facts, random):
    shuffled = random.sample(read["rules"], len(read["rules"]))
    before, after = load(read), load(read | {"rules": shuffled})
    assert unplaced(before.evaluate(facts)) == unplaced(after.evaluate(facts))
    assert before.pipeline_uuid == after.pipeline_uuid


@given(
    policies(),
    calls,
    effects,
    st.sampled_from([{"tool": "other"}, {"llm": "*"}, {"mcp_server": "crm"}, {"when": "false"}]),
)
def test_a_rule_that_does_not_match_changes_nothing(read, facts, effect, never):
    effect = {key: value for key, value in effect.items() if key != "fields"} | (
        {"fields": ["result"]} if "fields" in effect else {}
    )
    more = read | {"rules": [*read["rules"], {"id": "zz"} | effect | never]}
    assert load(more).evaluate(facts) == load(read).evaluate(facts)
    assert load(more).pipeline_uuid != load(read).pipeline_uuid


@given(policies(), calls)
def test_the_same_content_has_the_same_id_however_it_is_written(read, facts):
    policy = load(read)
    block = load(
        read, lambda value: "# a comment\n\n" + yaml.safe_dump(value, default_flow_style=False, sort_keys=True)
    )
    flow = load(read, lambda value: json.dumps(value, indent=3))
    assert policy.pipeline_uuid == block.pipeline_uuid == flow.pipeline_uuid
    assert unplaced(policy.evaluate(facts)) == unplaced(flow.evaluate(facts))


@given(policies(), calls)
def test_a_policy_had_back_from_its_bundle_says_the_same_places_included(read, facts):
    policy = load(read)
    again = Policy.from_bundle(policy.bundle)
    assert again.evaluate(facts) == policy.evaluate(facts)
    assert (again.pipeline_uuid, again.bundle) == (policy.pipeline_uuid, policy.bundle)


@pytest.mark.parametrize(
    "change",
    [
        "default: block",
        "allow_observe: true",
        "detect: {pii: {result: flag}}",
        "detect: {secrets: {result: redact}}",
        "budgets: {session: {usd: 5}}",
        "rules: [{id: a, effect: allow}]",
    ],
)
def test_any_other_content_has_another_id(change):
    assert PolicySources.of(f"version: 1\n{change}").load_policy(KINDS).pipeline_uuid != Policy.built_in().pipeline_uuid


def test_an_empty_policy_is_the_built_in_one():
    assert PolicySources.of("version: 1").load_policy(KINDS).pipeline_uuid == Policy.built_in().pipeline_uuid
    assert PolicySources.empty().load_policy(KINDS).pipeline_uuid == Policy.built_in().pipeline_uuid


def test_rules_keep_their_id_when_they_move_to_another_file(tmp_path):
    rules = ["{id: a, effect: allow}", "{id: b, tool: x, effect: block}"]
    one = PolicySources.of("version: 1\nrules:\n" + "".join(f"- {rule}\n" for rule in rules)).load_policy(KINDS)
    for name, rule in zip("zy", rules, strict=True):
        (tmp_path / f"{name}.yaml").write_text(f"version: 1\nrules: [{rule}]\n")
    split = PolicySources.read([tmp_path / "y.yaml", tmp_path / "z.yaml"]).load_policy(KINDS)
    assert split.pipeline_uuid == one.pipeline_uuid


@pytest.mark.parametrize("body", [b"", b"{}", b"not json", b'{"bundle": 2, "document": {}}', b'{"bundle": 1}'])
def test_a_bundle_of_another_version_is_refused(body):
    with pytest.raises(TapPassConfigError, match="policy accept"):
        Policy.from_bundle(body)


def test_a_bundle_with_a_condition_that_no_longer_compiles_is_refused():
    bundle = load({"version": 1, "rules": [{"id": "r", "effect": "block", "when": "true"}]}).bundle
    with pytest.raises(TapPassConfigError, match=r"policy.yaml:\d+: the condition of `r`"):
        Policy.from_bundle(bundle.replace(b'"when":"true"', b'"when":"agent.gone"'))


def many(count: int) -> Policy:
    filler = [{"id": f"f{n}", "tool": f"tool_{n}", "when": "args.x > 1", "effect": "block"} for n in range(count - 1)]
    return load(
        {"version": 1, "rules": [*filler, {"id": "pay", "tool": "pay", "when": "args.amount > 10", "effect": "block"}]}
    )


def test_a_thousand_rules_answer_as_ten_do():
    small, large = many(10), many(1000)
    for amount in (1, 11, "x"):
        facts = Facts(kind="tool", name="pay", arguments={"amount": amount})
        assert unplaced(small.evaluate(facts)) == unplaced(large.evaluate(facts))
    assert large.evaluate(Facts(kind="tool", name="tool_998", arguments={"x": 2})).blocked_by == "f998"
    assert [rule.id for rule in large.rules_for("tool", "pay")] == ["pay"], "a call looks at its own rules alone"


def test_threads_get_the_answer_of_their_own_call():
    policy = many(50)
    wrong = []

    def ask(offset: int) -> None:
        for number in range(1500):
            name, amount = ("pay", (number + offset) % 21) if number % 3 else (f"new_{offset}_{number}", 11)
            outcome = policy.evaluate(Facts(kind="tool", name=name, arguments={"amount": amount})).outcome
            if outcome != ("block" if name == "pay" and amount > 10 else "allow"):
                wrong.append((name, amount))

    threads = [threading.Thread(target=ask, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gets_the_same_answer():
    policy = many(10)
    facts = Facts(kind="tool", name="pay", arguments={"amount": 11})
    before = policy.evaluate(facts)
    child = os.fork()
    if child == 0:
        same = policy.evaluate(facts) == before and many(10).evaluate(facts) == before
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_evaluating_loads_no_reader_of_files():
    code = (
        "import sys; from tappass.engine.policy.files import find_files;"
        "from tappass.engine.policy.policy import Policy;"
        "from tappass.engine.policy.facts import Facts; from tappass.engine.settings import Settings;"
        "Policy.built_in().evaluate(Facts(kind='tool', name='x', arguments={}));"
        "print([name for name in ('yaml', 'tomllib', 'difflib', 'sqlalchemy', 'httpx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_from_outside_do_not_pile_up():
    policy = many(10)
    for number in range(10_000):
        policy.evaluate(Facts(kind="llm", name=f"model-{number}", arguments={}))
    assert len(policy._plans) <= 4096
