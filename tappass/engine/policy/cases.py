"""Cases beside the rules: a call, and what the policy should say of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
import yaml

from tappass.engine.policy.document import (
    ALLOW,
    BLOCK,
    MEASURES,
    REQUIRE_APPROVAL,
    REQUIRE_TIER,
    SCOPES,
    TIERS,
)
from tappass.engine.policy.facts import LLM, TOOL, Facts, Verdict
from tappass.engine.policy.nodes import Reader
from tappass.engine.policy.policy import Policy
from tappass.engine.policy.problems import Problem, failed
from tappass.engine.policy.trial import call_facts
from tappass.wire.findings import Finding

OUTCOMES = (ALLOW, BLOCK, REQUIRE_TIER, REQUIRE_APPROVAL)
CASE_KEYS = ("name", "tool", "llm", "mcp_server", "args", "agent", "session", "now", "budget", "findings", "expect")
BUDGET_FACTS = tuple(f"{scope}.{measure}" for scope in SCOPES for measure in MEASURES)
_AGENT = {"name": "agent_name", "tier": "agent_tier", "framework": "agent_framework"}
_SESSION = {
    "name": "session_name",
    "mode": "session_mode",
    "metadata": "session_metadata",
    "implicit": "session_implicit",
}


class Detecting(Protocol):
    """Finds what there is to find in arguments; see `detect.detectors.Detectors`."""

    def inspect(self, value: Any, root: str = "") -> tuple[Finding, ...]:
        """Return the matches in every text of a value."""
        ...


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What a case expects; what is None is not looked at."""

    outcome: str
    blocked_by: str | None = None
    rules: tuple[str, ...] | None = None
    redacts: bool | None = None


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One case; `findings` None stands for what the detectors see in the arguments."""

    name: str
    source: str
    facts: Facts
    expect: Expectation
    findings: tuple[str, ...] | None = None


class CaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one case went; `problems` say what was expected and what came, () if it passed."""

    name: str
    source: str
    problems: tuple[str, ...]
    verdict: Verdict

    @property
    def passed(self) -> bool:
        """Whether the policy said what was expected."""
        return not self.problems


def run_cases(policy: Policy, paths: Iterable[Path], detectors: Detecting) -> list[CaseResult]:
    """Run the cases of some files against a policy, in order.

    Raises:
        TapPassConfigError: a file cannot be read, or a case is wrong; file, line and column of every problem.
    """
    results = []
    for case in read_cases(paths):
        seen = detectors.inspect(case.facts.arguments) if case.findings is None else _named(case.findings)
        verdict = policy.evaluate(msgspec.structs.replace(case.facts, findings=seen))
        problems = _differences(case.expect, verdict, seen)
        results.append(CaseResult(name=case.name, source=case.source, problems=problems, verdict=verdict))
    return results


def read_cases(paths: Iterable[Path]) -> list[Case]:
    """Return the cases of some files.

    Raises:
        TapPassConfigError: a file cannot be read, or a case is wrong.
    """
    cases: list[Case] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            reader = Reader(path.name, path.read_bytes())
        except OSError as error:
            problems.append(Problem(str(path), 0, 0, f"it cannot be read: {error.strerror}"))
            continue
        if reader.root is not None:
            keys = reader.mapping(reader.root, ("cases",), what="a file of cases")
            nodes = reader.items(keys["cases"], what="`cases`") if "cases" in keys else []
            cases += [case for node in nodes if (case := _case(reader, node)) is not None]
        problems += reader.problems
    if problems:
        raise failed(problems, what="the cases cannot be run")
    return cases


def _case(reader: Reader, node: yaml.Node) -> Case | None:
    keys = reader.mapping(node, CASE_KEYS, what="a case")
    if ("tool" in keys) == ("llm" in keys):
        reader.note(node, "a case is a call of a `tool` or of an `llm`, and names one")
        return None
    if "expect" not in keys:
        reader.note(node, "this case has no `expect`")
        return None
    kind = TOOL if "tool" in keys else LLM
    name = reader.text(keys[kind], what=f"`{kind}`")
    arguments = reader.value(keys["args"]) if "args" in keys else {}
    if not isinstance(arguments, dict):
        reader.wrong(keys["args"], "`args` must be a mapping")
        arguments = {}
    facts = call_facts(kind, name, arguments, now_ns=_now(reader, keys.get("now")))
    more = _facts_of(reader, keys, "agent", _AGENT) | _facts_of(reader, keys, "session", _SESSION)
    if "budget" in keys:
        more["budget"] = facts.budget | _spent(reader, keys["budget"])
    if "mcp_server" in keys:
        more["server"] = reader.text(keys["mcp_server"], what="`mcp_server`")
    named = reader.items(keys["findings"], what="`findings`") if "findings" in keys else None
    return Case(
        name=reader.text(keys["name"], what="`name`") if "name" in keys else f"{kind} {name}",
        source=reader.source(node),
        facts=msgspec.structs.replace(facts, **more),
        expect=_expectation(reader, keys["expect"]),
        findings=None if named is None else tuple(reader.choice(n, _kinds(), what="finding kind") for n in named),
    )


def _facts_of(reader: Reader, keys: dict[str, yaml.Node], what: str, names: dict[str, str]) -> dict[str, Any]:
    if what not in keys:
        return {}
    given = {}
    for name, node in reader.mapping(keys[what], names, what=f"`{what}`").items():
        if name == "metadata":
            value = reader.value(node)
            if not isinstance(value, dict):
                reader.wrong(node, "`metadata` must be a mapping")
                value = {}
        elif name == "implicit":
            value = reader.boolean(node, what="`implicit`")
        elif name == "tier":
            value = reader.choice(node, TIERS, what="tier")
        else:
            value = reader.text(node, what=f"`{name}`")
        given[names[name]] = value
    return given


def _spent(reader: Reader, node: yaml.Node) -> dict[str, int | float]:
    """Return what a case takes to be spent: `{session.usd: 4.5}`."""
    spent: dict[str, int | float] = {}
    for name, amount in reader.mapping(node, BUDGET_FACTS, what="`budget`").items():
        value = reader.value(amount)
        if type(value) in (int, float) and value >= 0:
            spent[name] = float(value) if name.endswith("usd") else value
        else:
            reader.note(amount, f"`{name}` is a number, 0 or more")
    return spent


def _now(reader: Reader, node: yaml.Node | None) -> int | None:
    if node is None:
        return None
    try:
        moment = datetime.fromisoformat(node.value)
    except (TypeError, ValueError):
        reader.note(node, "`now` is a moment such as 2026-01-31T09:30:00Z")
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 1_000_000_000


def _expectation(reader: Reader, node: yaml.Node) -> Expectation:
    if isinstance(node, yaml.ScalarNode):
        return Expectation(outcome=reader.choice(node, OUTCOMES, what="outcome"))
    keys = reader.mapping(node, ("outcome", "blocked_by", "rules", "redacts"), what="`expect`")
    if "outcome" not in keys:
        reader.note(node, "`expect` needs an `outcome`")
        return Expectation(outcome="")
    rules = reader.items(keys["rules"], what="`rules`") if "rules" in keys else None
    return Expectation(
        outcome=reader.choice(keys["outcome"], OUTCOMES, what="outcome"),
        blocked_by=reader.text(keys["blocked_by"], what="`blocked_by`") if "blocked_by" in keys else None,
        rules=None if rules is None else tuple(sorted(reader.text(rule, what="a rule") for rule in rules)),
        redacts=reader.boolean(keys["redacts"], what="`redacts`") if "redacts" in keys else None,
    )


def _differences(expect: Expectation, verdict: Verdict, seen: tuple[Finding, ...]) -> tuple[str, ...]:
    out = []
    if verdict.outcome != expect.outcome:
        out.append(f"expected {expect.outcome}, got {verdict.outcome}: {verdict.reason or 'no rule says otherwise'}")
    if expect.blocked_by is not None and verdict.blocked_by != expect.blocked_by:
        out.append(f"expected blocked_by {expect.blocked_by}, got {verdict.blocked_by or 'nothing'}")
    matched = tuple(match.id for match in verdict.matches)
    if expect.rules is not None and matched != expect.rules:
        out.append(f"expected rules {', '.join(expect.rules) or 'none'}, got {', '.join(matched) or 'none'}")
    redacts = any(verdict.redacts(finding) for finding in seen)
    if expect.redacts is not None and redacts is not expect.redacts:
        out.append(
            "expected arguments to be redacted" if expect.redacts else "expected arguments to be left as they are"
        )
    return tuple(out)


def _kinds() -> dict[str, str]:
    """Return the category of every finding kind."""
    from tappass.engine.detect.detectors import catalogue

    return {kind: detector.category for kind, detector in catalogue().items()}


def _named(kinds: Iterable[str]) -> tuple[Finding, ...]:
    categories = _kinds()
    return tuple(Finding(kind=kind, start=0, end=0, category=categories[kind]) for kind in kinds)
