"""Policy files read into one document, or every problem in them at once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

import yaml

from tappass.engine.policy import conditions
from tappass.engine.policy.document import (
    ACTIONS,
    ALLOW,
    BLOCK,
    BUILT_IN,
    CATEGORIES,
    MEASURES,
    PLACES,
    SCOPES,
    Budget,
    DetectSetting,
    Document,
    Rule,
)
from tappass.engine.policy.nodes import Reader
from tappass.engine.policy.problems import Problem, failed, meant
from tappass.engine.policy.rules import read_rule
from tappass.engine.policy.scalars import Scalar
from tappass.engine.policy.syntax import Reads

T = TypeVar("T")

TOP_KEYS = ("version", "default", "allow_observe", "rules", "detect", "budgets")
_AMOUNT = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A document, and its rules' conditions as they are written, by rule id."""

    document: Document
    conditions: dict[str, Scalar]


@dataclass(slots=True)
class _Draft:
    """What the files read so far say."""

    known_kinds: frozenset[str]
    rules: dict[str, Rule] = field(default_factory=dict)
    conditions: dict[str, Scalar] = field(default_factory=dict)
    detect: dict[str, DetectSetting] = field(default_factory=dict)
    budgets: dict[tuple[str, str], Budget] = field(default_factory=dict)
    default: tuple[str, str] = (ALLOW, "")
    allow_observe: tuple[bool, str] = (False, "")
    problems: list[Problem] = field(default_factory=list)


def load(files: Iterable[tuple[str, bytes]], known_kinds: frozenset[str]) -> Loaded:
    """Read policy files, name and bytes of each, as one policy.

    Args:
        files: in the order in which messages should name them.
        known_kinds: the finding kinds that `kinds` may name besides the categories.

    Raises:
        TapPassConfigError: something is wrong; file, line and column of each problem, see `problems_of`.
    """
    draft = _Draft(known_kinds)
    for name, body in files:
        reader = Reader(name, body)
        _read_file(reader, draft)
        draft.problems += reader.problems
    if draft.problems:
        raise failed(draft.problems)
    detect = {setting.id: setting for setting in BUILT_IN} | draft.detect
    document = Document(
        default=draft.default[0],
        default_source=draft.default[1],
        allow_observe=draft.allow_observe[0],
        rules=tuple(draft.rules[name] for name in sorted(draft.rules)),
        detect=tuple(detect[name] for name in sorted(detect)),
        budgets=tuple(draft.budgets[key] for key in sorted(draft.budgets)),
    )
    return Loaded(document, draft.conditions)


def _read_file(reader: Reader, draft: _Draft) -> None:
    if reader.root is None:
        if not reader.problems:
            reader.note(None, "the file is empty; it needs at least `version: 1`")
        return
    keys = reader.mapping(reader.root, TOP_KEYS, what="a policy")
    _read_version(reader, keys)
    if "default" in keys:
        value = reader.choice(keys["default"], (ALLOW, BLOCK), what="default")
        draft.default = _once(reader, keys["default"], "default", draft.default, value)
    if "allow_observe" in keys:
        leave = reader.boolean(keys["allow_observe"], what="`allow_observe`")
        draft.allow_observe = _once(reader, keys["allow_observe"], "allow_observe", draft.allow_observe, leave)
    if "rules" in keys:
        for node in reader.items(keys["rules"], what="`rules`"):
            _add_rule(reader, node, draft)
    if "detect" in keys:
        _read_detect(reader, keys["detect"], draft)
    if "budgets" in keys:
        _read_budgets(reader, keys["budgets"], draft)


def _read_version(reader: Reader, keys: dict[str, yaml.Node]) -> None:
    if "version" not in keys:
        if isinstance(reader.root, yaml.MappingNode):
            reader.note(None, "`version` is missing; write `version: 1`")
    elif not (isinstance(keys["version"], yaml.ScalarNode) and keys["version"].value == "1"):
        reader.note(keys["version"], "this version of tappass reads `version: 1`")


def _once(reader: Reader, node: yaml.Node, name: str, before: tuple[T, str], value: T) -> tuple[T, str]:
    """Return a setting that all files must agree on."""
    if before[1] and before[0] != value:
        reader.note(node, f"`{name}` is something else in {before[1]}")
    return value, reader.source(node)


def _add_rule(reader: Reader, node: yaml.Node, draft: _Draft) -> None:
    rule, when = read_rule(reader, node, draft.known_kinds)
    if when is not None:
        reader.problems += condition_problems(rule, when)
        draft.conditions[rule.id] = when
    if not rule.id:
        return
    known = draft.rules.setdefault(rule.id, rule)
    if known is not rule:
        reader.note(node, f"the id `{rule.id}` is taken by the rule at {known.source}")


def condition_problems(rule: Rule, when: Scalar) -> list[Problem]:
    """Return what is wrong with a rule's condition, whatever tools there are."""
    # As it stands in the file, not stripped, so that places fit.
    try:
        condition = conditions.compiled(when.value)
    except conditions.ConditionProblem as problem:
        return [Problem(when.file, *when.place(line, column), text) for line, column, text in problem.places]
    if rule.tool or rule.mcp_server:
        return []
    read, known = condition.reads, conditions.LLM_ARGUMENTS
    names = read.arguments | read.tested if rule.llm else _unasked(read)
    advice = "" if rule.llm else ", and this rule is for models too: narrow it by `tool`, or ask `has(args.{0})` first"
    return [
        Problem(
            when.file,
            *when.place(*conditions.place_of(when.value, offset)),
            f"a model has no argument `{name}`{advice.format(name) or '; ' + meant(name, known)}",
        )
        for name, offset in names.items()
        if name not in known
    ]


def _unasked(read: Reads) -> dict[str, int]:
    return {name: offset for name, offset in read.arguments.items() if name not in read.tested}


def _read_detect(reader: Reader, node: yaml.Node, draft: _Draft) -> None:
    for category, places in reader.mapping(node, CATEGORIES, what="`detect`").items():
        for place, action in reader.mapping(places, PLACES, what=f"`detect.{category}`").items():
            word = reader.choice(action, ACTIONS, what="action")
            made = DetectSetting(category=category, place=place, action=word, source=reader.source(action))
            known = draft.detect.setdefault(made.id, made)
            if known.action != word:
                reader.note(action, f"`{made.id}` is something else in {known.source}")


def _read_budgets(reader: Reader, node: yaml.Node, draft: _Draft) -> None:
    for scope, limits in reader.mapping(node, SCOPES, what="`budgets`").items():
        for measure, limit in reader.mapping(limits, MEASURES, what=f"`budgets.{scope}`").items():
            text = limit.value if isinstance(limit, yaml.ScalarNode) else ""
            whole = measure != "usd"
            if not _AMOUNT.fullmatch(text) or (whole and not text.isdecimal()):
                reader.note(limit, f"a limit of `{measure}` is a {'whole ' if whole else ''}number, 0 or more")
                continue
            plain = format(Decimal(text).normalize(), "f")
            made = Budget(scope=scope, measure=measure, limit=plain, source=reader.source(limit))
            known = draft.budgets.setdefault((scope, measure), made)
            if known.limit != plain:
                reader.note(limit, f"`budgets.{scope}.{measure}` is something else in {known.source}")
