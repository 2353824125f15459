"""Rules held against the tools that are known: misspelt arguments, and arguments of another type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cel_expr_python import cel  # type: ignore[import-untyped]

from tappass.engine.policy import conditions
from tappass.engine.policy.document import Rule
from tappass.engine.policy.facts import TOOL
from tappass.engine.policy.policy import Policy
from tappass.engine.policy.problems import Problem, meant
from tappass.engine.policy.syntax import Reads
from tappass.wire.decisions import ToolDefinition

# Numbers are left open: the checker refuses a double against an int, and evaluation compares them.
_TYPES = {"string": cel.Type.STRING, "boolean": cel.Type.BOOL}


def check(policy: Policy, tools: Iterable[ToolDefinition]) -> tuple[Problem, ...]:
    """Return what is wrong with a policy's rules if these are the tools, sorted by place.

    An argument is misspelt if a tool that the rule is for lacks it, unless the rule asks `has(args.x)` and another
    tool that it is for has it. Where the policy was loaded from files, problems have a column.
    """
    served: dict[str, list[ToolDefinition]] = {}
    for tool in tools:
        for rule in policy.rules_for(TOOL, tool.name, tool.server):
            served.setdefault(rule.id, []).append(tool)
    found: set[Problem] = set()
    for rule in policy.document.rules:
        if rule.id in served:
            found.update(_check_rule(policy, rule, served[rule.id]))
    return tuple(sorted(found))


def _check_rule(policy: Policy, rule: Rule, tools: Sequence[ToolDefinition]) -> Iterator[Problem]:
    for name in (field.removeprefix("args.") for field in rule.fields if field.startswith("args.")):
        if not any(_has(tool, name) for tool in tools):
            yield _at(policy, rule, None, _lacking(tools[0], name))
    if not rule.when:
        return
    # As it stands in its file, where there is one, so that places fit.
    text = policy.written[rule.id].value if rule.id in policy.written else rule.when
    read = conditions.compiled(text).reads
    for name, offset in _missing(read, tools):
        lacking = next(tool for tool in tools if not _has(tool, name))
        advice = (
            "" if len(tools) == 1 or name in read.tested else f"; for tools without it, ask `has(args.{name})` first"
        )
        yield _at(policy, rule, conditions.place_of(text, offset), _lacking(lacking, name) + advice)
    for tool in tools:
        for line, column, said in conditions.check_types(text, _types(tool, read)):
            yield _at(policy, rule, (line, column), f"{said}, as `{tool.name}` declares it")


def _missing(read: Reads, tools: Sequence[ToolDefinition]) -> Iterator[tuple[str, int]]:
    for name, offset in (read.tested | read.arguments).items():
        lacking = [tool for tool in tools if not _has(tool, name)]
        if len(lacking) == len(tools) or (lacking and name not in read.tested):
            yield name, offset


def _has(tool: ToolDefinition, name: str) -> bool:
    return tool.open_arguments or name in tool.arguments


def _lacking(tool: ToolDefinition, name: str) -> str:
    hint = meant(name, tool.arguments) if tool.arguments else "it takes none"
    return f"`{tool.name}` has no argument `{name}`; {hint}"


def _types(tool: ToolDefinition, read: Reads) -> dict[str, Any]:
    """Return the CEL types of the arguments that a condition reads, where the schema leaves no doubt."""
    properties = tool.parameters.get("properties")
    if not isinstance(properties, dict):
        return {}
    # `has()` on a name that is declared by itself would not be a test.
    names = [name for name in read.arguments if name not in read.tested and isinstance(properties.get(name), dict)]
    named = {name: properties[name].get("type") for name in names if name.isidentifier()}
    return {name: _TYPES[kind] for name, kind in named.items() if isinstance(kind, str) and kind in _TYPES}


def _at(policy: Policy, rule: Rule, place: tuple[int, int] | None, text: str) -> Problem:
    written = policy.written.get(rule.id)
    if place is not None and written is not None:
        return Problem(written.file, *written.place(*place), text)
    file, _, line = rule.source.rpartition(":")
    return Problem(file or rule.source, int(line) if line.isdecimal() else 0, 0, f"rule `{rule.id}`: {text}")
