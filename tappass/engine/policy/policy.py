"""A policy in force: compiled, immutable, and flat in cost however many rules it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec

from tappass.engine.policy import conditions, document, globs
from tappass.engine.policy.conditions import Condition
from tappass.engine.policy.document import ALLOW, ARGUMENTS, PROMPT, RESULT, DetectSetting, Document, Rule
from tappass.engine.policy.facts import LLM, TOOL, Facts, Verdict
from tappass.engine.policy.merge import Matched, merge
from tappass.engine.policy.scalars import Scalar
from tappass.errors import TapPassConfigError
from tappass.wire.decisions import BLOCK

_MOST_PLANS = 4096
_MOST_VERDICTS = 256

_Call: TypeAlias = tuple[str, str, str, str, tuple[str, ...]]
_Getters: TypeAlias = tuple[tuple[str, Callable[[Facts], Any]], ...]
_Outcome: TypeAlias = tuple[int, frozenset[str], str]
_NONE_SEEN: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Plan:
    """What is known beforehand of all calls of one name: which rules may match, and what then comes out.

    Bit n of a mask stands for rule n.
    """

    rules: tuple[Rule, ...]
    settings: tuple[DetectSetting, ...]
    place: str
    always: int
    conditional: tuple[tuple[int, Condition], ...]
    facts: _Getters
    categories: frozenset[str]
    reads_tier: bool
    verdicts: dict[_Outcome, Verdict] = field(default_factory=dict)


class Policy:
    """The rules and detector settings that calls are decided by; share it freely between threads.

    Args:
        read: what it says.
        written: its rules' conditions as they stand in their files, by rule id, for messages with a column.

    Raises:
        TapPassConfigError: a condition does not compile.
    """

    def __init__(self, read: Document, written: Mapping[str, Scalar] | None = None) -> None:
        self.document = read
        self.written = dict(written or {})
        self.pipeline_uuid = read.pipeline_uuid()
        self.bundle = read.bundle()
        self.allow_observe = read.allow_observe
        self._conditions = {rule.id: _compiled(rule) for rule in read.rules if rule.when}
        self.budget_facts = frozenset(
            name.removeprefix("budget.")
            for condition in self._conditions.values()
            for name in condition.reads.facts
            if name.startswith("budget.")
        )
        self.metered = bool(read.budgets or self.budget_facts)
        self._by_agent = any(rule.agent for rule in read.rules)
        self._by_session = any(rule.session for rule in read.rules)
        self._index = {TOOL: _Index(read.rules, TOOL), LLM: _Index(read.rules, LLM)}
        self._plans: dict[_Call, _Plan] = {}

    @classmethod
    def built_in(cls) -> Policy:
        """Return the policy where there is no file: allow, record, mask secrets."""
        return cls(Document())

    @classmethod
    def from_bundle(cls, bundle: bytes) -> Policy:
        """Return the policy that has this `bundle`.

        Raises:
            TapPassConfigError: the bytes are none that this version can read.
        """
        try:
            return cls(document.from_bundle(bundle))
        except msgspec.DecodeError as error:
            raise TapPassConfigError(
                f"the stored policy cannot be read by this version of tappass ({error}); run `tappass policy accept`"
            ) from error

    def evaluate(self, facts: Facts) -> Verdict:
        """Return what the policy says of a call. The same facts give the same verdict, always."""
        call = (
            facts.kind,
            facts.name,
            facts.server,
            facts.agent_name if self._by_agent else "",
            (facts.session_name, *facts.sessions_around) if self._by_session else (),
        )
        plan = self._plans.get(call) or self._plan(call)
        if plan is None:
            return Verdict(outcome=BLOCK, blocked_by="unknown-kind", reason="blocked: neither a tool nor a model")
        mask, failed = plan.always, None
        if plan.conditional:
            mask, failed = _asked(plan, facts)
        seen = _NONE_SEEN
        if facts.findings and plan.categories:
            seen = frozenset([f.category for f in facts.findings if f.category in plan.categories])
        outcome = (mask, seen, facts.agent_tier if plan.reads_tier else "")
        if failed is not None:
            return self._merge(plan, outcome, failed)
        verdict = plan.verdicts.get(outcome)
        if verdict is None:
            if len(plan.verdicts) >= _MOST_VERDICTS:
                plan.verdicts.clear()
            verdict = plan.verdicts[outcome] = self._merge(plan, outcome, {})
        return verdict

    def rules_for(self, kind: str, name: str, server: str = "") -> tuple[Rule, ...]:
        """Return the rules that may match calls of a tool or a model, whoever makes them, sorted by id."""
        return tuple(rule for rule in self._index[kind].candidates(name) if _serves(rule, kind, server))

    def _plan(self, call: _Call) -> _Plan | None:
        kind, name, server, agent, sessions = call
        if kind not in self._index:
            return None
        rules = tuple(
            rule
            for rule in self.rules_for(kind, name, server)
            if (not rule.agent or globs.matches(rule.agent, agent))
            # Beneath a session its rules go on: whoever delegates does not leave them behind.
            and (not rule.session or any(globs.matches(rule.session, session) for session in sessions))
        )
        place = PROMPT if kind == LLM else ARGUMENTS
        conditional = tuple((n, self._conditions[rule.id]) for n, rule in enumerate(rules) if rule.when)
        settings = tuple(s for s in self.document.detect if s.action != ALLOW and s.place in (place, RESULT))
        plan = _Plan(
            rules=rules,
            settings=settings,
            place=place,
            always=sum(1 << n for n, rule in enumerate(rules) if not rule.when),
            conditional=tuple((1 << n, condition) for n, condition in conditional),
            facts=_getters([condition for _, condition in conditional]),
            categories=frozenset(s.category for s in settings if s.place == place),
            reads_tier=any(rule.tier for rule in rules),
        )
        # Names come from outside: forget all rather than grow.
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        self._plans[call] = plan
        return plan

    def _merge(self, plan: _Plan, outcome: _Outcome, failed: dict[int, str]) -> Verdict:
        mask, seen, tier = outcome
        return merge(
            Matched(
                rules=[rule for n, rule in enumerate(plan.rules) if mask & 1 << n],
                failed=[(rule, failed[1 << n]) for n, rule in enumerate(plan.rules) if 1 << n in failed],
                settings=[s for s in plan.settings if s.place == plan.place and s.category in seen],
                results=[s for s in plan.settings if s.place == RESULT],
                place=plan.place,
                tier=tier,
                default=self.document.default,
                default_source=self.document.default_source,
            )
        )


class _Index:
    """The rules for one kind of call: those for exact names by name, and those to be matched."""

    def __init__(self, rules: Iterable[Rule], kind: str) -> None:
        self._exact: dict[str, list[Rule]] = {}
        self._globs: list[tuple[str, Rule]] = []
        for rule in rules:
            glob = rule.tool if kind == TOOL else rule.llm
            if not glob and not (rule.tool or rule.llm):
                glob = "*"
            if glob and globs.is_exact(glob):
                self._exact.setdefault(glob, []).append(rule)
            elif glob:
                self._globs.append((glob, rule))

    def candidates(self, name: str) -> list[Rule]:
        """Return the rules for a name, sorted by id."""
        found = [*self._exact.get(name, ()), *(rule for glob, rule in self._globs if globs.matches(glob, name))]
        return sorted(found, key=attrgetter("id"))


def _serves(rule: Rule, kind: str, server: str) -> bool:
    if not rule.mcp_server:
        return True
    return kind == TOOL and bool(server) and globs.matches(rule.mcp_server, server)


def _compiled(rule: Rule) -> Condition:
    try:
        return conditions.compiled(rule.when)
    except conditions.ConditionProblem as problem:
        raise TapPassConfigError(f"{rule.source or 'a rule'}: the condition of `{rule.id}`: {problem}") from None


def _asked(plan: _Plan, facts: Facts) -> tuple[int, dict[int, str] | None]:
    """Return which rules match, and those whose condition is neither true nor false."""
    mask, failed = plan.always, None
    activation = _activation(plan.facts, facts)
    for bit, condition in plan.conditional:
        answer = condition.holds(activation)
        if answer is not True and answer is not False:
            # Asked again with its own facts alone: one that cannot be converted fails whatever is beside it.
            answer = condition.holds(_activation(_getters([condition]), facts))
        if answer is True:
            mask |= bit
        elif answer is not False:
            failed = failed or {}
            failed[bit] = answer
    return mask, failed


def _activation(getters: _Getters, facts: Facts) -> Any:
    return conditions.activation({name: value for name, get in getters if (value := get(facts)) is not None})


def _now(facts: Facts) -> datetime:
    return datetime.fromtimestamp(facts.now_ns // 1_000 / 1_000_000, UTC)


def _findings(facts: Facts) -> list[dict[str, Any]]:
    return [
        {"kind": f.kind, "category": f.category, "where": f.where, "score": f.score, "detector": f.detector}
        for f in facts.findings
    ]


_GETTERS: dict[str, Callable[[Facts], Any]] = {
    "args": attrgetter("arguments"),
    "tool.name": attrgetter("name"),
    "tool.server": attrgetter("server"),
    "tool.kind": attrgetter("kind"),
    "now": _now,
    "findings": _findings,
}


def _getters(read_by: Sequence[Condition]) -> _Getters:
    """Return how to come by the facts that conditions read; nothing else is converted."""
    reads = [condition.reads for condition in read_by]
    names = sorted({name for read in reads for name in read.facts if name in conditions.FACTS})
    arguments = None
    if not any(read.open for read in reads):
        arguments = tuple(sorted({name for read in reads for name in (*read.arguments, *read.tested)}))
    return tuple((name, _getter(name, arguments)) for name in names)


def _getter(name: str, arguments: tuple[str, ...] | None) -> Callable[[Facts], Any]:
    if name == "args" and arguments is not None:
        return lambda facts: {name: facts.arguments[name] for name in arguments if name in facts.arguments}
    if name.startswith("budget."):
        spent = name.removeprefix("budget.")
        return lambda facts: facts.budget.get(spent)
    return _GETTERS.get(name) or attrgetter(name.replace(".", "_"))
