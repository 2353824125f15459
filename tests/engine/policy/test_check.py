"""Rules held against known tools: a misspelt argument is found before it lets anything through."""

from __future__ import annotations

from typing import Any

import pytest

from tappass.engine.policy.check import check
from tappass.engine.policy.files import PolicySources
from tappass.engine.policy.policy import Policy
from tappass.wire.decisions import ToolDefinition


def definition(name: str, more: bool = False, server: str = "", **types: str) -> ToolDefinition:
    properties: dict[str, Any] = {argument: {"type": kind} for argument, kind in types.items()}
    return ToolDefinition(
        name=name,
        arguments=tuple(types),
        open_arguments=more,
        server=server,
        parameters={"type": "object", "properties": properties},
    )


SEND = definition("send_email", to="string", body="string", urgent="boolean", size="integer", rate="number")
LIST = definition("send_list", names="array")
OPEN = definition("send_any", more=True)


def found(rule: str, *tools: ToolDefinition) -> list[str]:
    policy = PolicySources.of(f"version: 1\nrules:\n  - id: r\n    {rule}\n").load_policy(frozenset({"EMAIL"}))
    return [str(problem) for problem in check(policy, tools)]


@pytest.mark.parametrize(
    "rule",
    [
        "{tool: send_email, when: args.to == 'x' && args.urgent}",
        "{tool: send_email, when: args.size > 1.5 || args.rate > 3}",
        "{tool: send_*, when: has(args.to) && args.to == 'x'}",
        "{tool: send_*, when: args.?to.orValue('') == 'x'}",
        '{tool: send_*, when: \'"to" in args && args.to == "x"\'}',
        "{tool: other, when: args.anything == 1}",
        "{tool: send_any, when: args.anything == 1}",
        "{llm: '*', when: args.prompt == 'x'}",
        "{mcp_server: crm, when: args.anything == 1}",
        "{tool: send_email, when: 'args.exists(name, name == \"nope\")'}",
        "{tool: send_email, when: '[1].exists(args, args > 0)'}",
    ],
)
def test_sound_rules_have_no_problem(rule):
    keys = rule.strip("{}")
    text = f"version: 1\nrules:\n  - {{id: r, effect: block, {keys}}}\n"
    assert check(PolicySources.of(text).load_policy(frozenset()), [SEND, LIST, OPEN]) == ()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("tool: send_email\n    when: args.too == 'x'", "6:15: `send_email` has no argument `too`; did you mean `to`?"),
        ("tool: send_email\n    when: has(args.too)", "6:14: `send_email` has no argument `too`; did you mean `to`?"),
        ("tool: send_email\n    when: '\"too\" in args'", "6:18: `send_email` has no argument `too`; did"),
        ("tool: send_email\n    when: 'args[\"too\"] == 1'", "6:16: `send_email` has no argument `too`; did"),
        ("tool: send_email\n    when: |\n      args.urgent &&\n      args.too == 'x'", "8:11: `send_email` has no"),
        ("tool: send_*\n    when: args.to == 'x'", "6:15: `send_list` has no argument `to`; known: `names`; for tools"),
        ("tool: send_email\n    when: args.to > 5", "6:19: found no matching overload for '_>_' applied to '(string"),
        ("tool: send_email\n    when: args.urgent == 'yes'", "6:23: found no matching overload for '_==_' applied to"),
    ],
)
def test_what_does_not_fit_the_tools_is_shown_where_it_stands(keys, expected):
    (problem,) = found(f"effect: block\n    {keys}", SEND, LIST)
    assert problem.startswith(f"policy.yaml:{expected}")


def test_a_field_to_redact_must_be_an_argument():
    (problem,) = found("effect: redact\n    tool: send_email\n    fields: [args.bdy]", SEND)
    assert problem == "policy.yaml:3: rule `r`: `send_email` has no argument `bdy`; did you mean `body`?"


def test_a_stored_policy_is_checked_too_and_names_the_line_of_the_rule():
    rule = "version: 1\nrules:\n  - {id: r, tool: send_email, effect: block, when: args.too == 'x'}\n"
    stored = Policy.from_bundle(PolicySources.of(rule).load_policy(frozenset()).bundle)
    (problem,) = check(stored, [SEND])
    assert str(problem).startswith("policy.yaml:3: rule `r`: `send_email` has no argument `too`")
