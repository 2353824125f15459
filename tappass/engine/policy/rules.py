"""One rule, read from its YAML."""

from __future__ import annotations

import re

import yaml

from tappass.engine.policy import conditions, globs
from tappass.engine.policy.document import (
    ARGUMENTS,
    CATEGORIES,
    EFFECTS,
    PROMPT,
    REDACT,
    REQUIRE_APPROVAL,
    REQUIRE_TIER,
    RESULT,
    TIERS,
    Rule,
)
from tappass.engine.policy.nodes import Reader
from tappass.engine.policy.problems import choices, meant
from tappass.engine.policy.scalars import Scalar

RULE_KEYS = (
    "id",
    "tool",
    "llm",
    "agent",
    "session",
    "mcp_server",
    "when",
    "effect",
    "classification",
    "message",
    "approvers",
    "expires_in",
    "tier",
    "fields",
    "kinds",
)
_GLOBS = ("tool", "llm", "agent", "session", "mcp_server")
_ONLY_FOR = {
    "approvers": REQUIRE_APPROVAL,
    "expires_in": REQUIRE_APPROVAL,
    "tier": REQUIRE_TIER,
    "fields": REDACT,
    "kinds": REDACT,
}
_NEEDED = {REQUIRE_TIER: "tier", REDACT: "fields"}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_DURATION = re.compile(r"(?:(\d{1,4})d)?(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s)?")
_UNITS_S = (86_400, 3_600, 60, 1)
LONGEST_S = 365 * 86_400


def read_rule(reader: Reader, node: yaml.Node, known_kinds: frozenset[str]) -> tuple[Rule, Scalar | None]:
    """Return a rule and its condition as written; what is wrong is noted with the reader."""
    keys = reader.mapping(node, RULE_KEYS, what="a rule")
    if not keys:
        if isinstance(node, yaml.MappingNode) and not node.value:
            reader.note(node, "this rule is empty")
        return Rule(id="", effect="", source=reader.source(node)), None
    effect = _effect(reader, node, keys)
    when = _condition(reader, keys["when"]) if "when" in keys else None
    narrowed = {name: _glob(reader, name, keys[name]) for name in _GLOBS if name in keys}
    if "tool" in keys and "llm" in keys:
        reader.note(keys["llm"], "a rule is for tools or for models; write two rules, or leave both out")
    if "llm" in keys and "mcp_server" in keys:
        reader.note(keys["mcp_server"], "a model has no `mcp_server`; it narrows rules for tools")
    fields = tuple(sorted(_fields(reader, keys))) if effect == REDACT and "fields" in keys else ()
    rule = Rule(
        id=_id(reader, node, keys),
        effect=effect,
        when=when.value.strip() if when is not None else "",
        classification=_text(reader, keys, "classification"),
        message=_text(reader, keys, "message", 500),
        approvers=_approvers(reader, keys, effect),
        expires_in_s=_duration(reader, keys["expires_in"]) if "expires_in" in keys else 0,
        tier=reader.choice(keys["tier"], TIERS, what="tier") if "tier" in keys else "",
        fields=fields,
        kinds=_kinds(reader, keys, known_kinds) if effect == REDACT else (),
        source=reader.source(node),
        **narrowed,
    )
    return rule, when


def _id(reader: Reader, node: yaml.Node, keys: dict[str, yaml.Node]) -> str:
    if "id" not in keys:
        reader.note(node, "this rule has no `id`; errors and the log name rules by it")
        return ""
    name = reader.text(keys["id"], what="`id`")
    if name and not _ID.fullmatch(name):
        reader.note(keys["id"], "an `id` is made of letters, digits, `.`, `_`, `/` and `-`, at most 100")
    elif name == "default" or name.startswith("detect."):
        reader.note(keys["id"], f"the id `{name}` is taken: a setting is called so")
    return name


def _effect(reader: Reader, node: yaml.Node, keys: dict[str, yaml.Node]) -> str:
    if "effect" not in keys:
        reader.note(node, f"this rule has no `effect`; one of {choices(EFFECTS)}")
        return ""
    effect = reader.choice(keys["effect"], EFFECTS, what="effect")
    for name, owner in _ONLY_FOR.items():
        if effect and name in keys and effect != owner:
            reader.note(keys[name], f"`{name}` belongs to `effect: {owner}`, and this rule's effect is `{effect}`")
    needed = _NEEDED.get(effect)
    if needed is not None and needed not in keys:
        reader.note(keys["effect"], f"`effect: {effect}` needs `{needed}`")
    return effect


def _condition(reader: Reader, node: yaml.Node) -> Scalar | None:
    if not reader.text(node, what="`when`", longest=conditions.LONGEST) or not isinstance(node, yaml.ScalarNode):
        return None
    return reader.scalar(node)


def _glob(reader: Reader, name: str, node: yaml.Node) -> str:
    glob = reader.text(node, what=f"`{name}`", longest=globs.LONGEST)
    if any(letter in glob for letter in "[]{}"):
        reader.note(node, f"`{name}` is a glob of `*` and `?`; `[`, `]`, `{{`, `}}` are not part of it")
    return glob


def _text(reader: Reader, keys: dict[str, yaml.Node], name: str, longest: int = 200) -> str:
    if name not in keys:
        return ""
    value = reader.text(keys[name], what=f"`{name}`", longest=longest)
    # It ends up in errors, on terminals and in the log.
    if not value.isprintable():
        reader.note(keys[name], f"`{name}` must be one line of printable text")
    return value


def _approvers(reader: Reader, keys: dict[str, yaml.Node], effect: str) -> int:
    if "approvers" not in keys:
        return 1 if effect == REQUIRE_APPROVAL else 0
    return reader.integer(keys["approvers"], what="`approvers`", most=100)


def _duration(reader: Reader, node: yaml.Node) -> int:
    """Return seconds; `90s`, `15m`, `1h30m`, `2d`."""
    text = node.value if isinstance(node, yaml.ScalarNode) else ""
    found = _DURATION.fullmatch(text)
    seconds = (
        sum(int(number or 0) * unit for number, unit in zip(found.groups(), _UNITS_S, strict=True)) if found else 0
    )
    if not 0 < seconds <= LONGEST_S:
        reader.note(node, "`expires_in` is a duration such as `30m`, `1h30m` or `2d`, at most 365d")
        return 0
    return seconds


def _fields(reader: Reader, keys: dict[str, yaml.Node]) -> set[str]:
    fields = set()
    items = reader.items(keys["fields"], what="`fields`")
    if isinstance(keys["fields"], yaml.SequenceNode) and not items:
        reader.note(keys["fields"], "`fields` is empty")
    for item in items:
        name = reader.text(item, what="a field")
        if name in fields:
            reader.note(item, f"`{name}` stands here twice")
        elif name:
            _check_field(reader, item, name, keys)
        fields.add(name)
    return fields


def _check_field(reader: Reader, item: yaml.Node, name: str, keys: dict[str, yaml.Node]) -> None:
    known = (RESULT, PROMPT, ARGUMENTS)
    argument = name.removeprefix("args.") if name.startswith("args.") else ""
    if not argument and name not in known:
        reader.note(item, f"unknown field `{name[:60]}`; {meant(name, (*known, 'args.<name>'))}")
    elif name == PROMPT and "tool" in keys:
        reader.note(item, "a tool has no `prompt`; write `arguments`, or `args.<name>`")
    elif name == ARGUMENTS and "llm" in keys:
        reader.note(item, "what a model is given is its `prompt`; write that")
    elif argument and "llm" in keys and argument not in conditions.LLM_ARGUMENTS:
        reader.note(item, f"a model has no argument `{argument}`; {meant(argument, conditions.LLM_ARGUMENTS)}")


def _kinds(reader: Reader, keys: dict[str, yaml.Node], known: frozenset[str]) -> tuple[str, ...]:
    if "kinds" not in keys:
        return ("pii", "secrets")
    names = (*CATEGORIES, *sorted(known))
    items = reader.items(keys["kinds"], what="`kinds`")
    if isinstance(keys["kinds"], yaml.SequenceNode) and not items:
        reader.note(keys["kinds"], "`kinds` is empty")
    return tuple(sorted({reader.choice(item, names, what="kind") for item in items}))
