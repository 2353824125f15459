"""All that matched, merged into one verdict: the most severe effect decides, the obligations add up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tappass.engine.policy.document import (
    ALLOW,
    ARGUMENTS,
    BLOCK,
    FLAG,
    PROMPT,
    REDACT,
    REQUIRE_APPROVAL,
    REQUIRE_TIER,
    RESULT,
    TIERS,
    DetectSetting,
    Rule,
)
from tappass.engine.policy.facts import ApprovalTerms, Verdict
from tappass.wire.decisions import RuleMatch
from tappass.wire.obligations import ScanResult

FAILED = "failed"
_HOLDS = {
    "secrets": "a secret",
    "pii": "personal data",
    "injection": "what reads like an injected instruction",
}


@dataclass(frozen=True, slots=True)
class Matched:
    """What matched one call.

    Attributes:
        rules: those that matched, by id.
        failed: those whose condition gave no answer, by id, and why.
        settings: those of the detectors that what was seen in the arguments falls under.
        results: the detector settings for results.
        place: `arguments` or `prompt`, whichever the call has.
        tier: the agent's.
    """

    rules: Sequence[Rule]
    failed: Sequence[tuple[Rule, str]]
    settings: Sequence[DetectSetting]
    results: Sequence[DetectSetting]
    place: str
    tier: str
    default: str
    default_source: str


def merge(matched: Matched) -> Verdict:
    """Return the verdict."""
    outcome, reason, blocked_by, rule = _decide(matched)
    # A rule that gave no answer may be one that redacts: under `observe` the call goes on.
    binding = [*matched.rules, *(rule for rule, _ in matched.failed)]
    return Verdict(
        outcome=outcome,
        reason=reason,
        blocked_by=blocked_by,
        classification=_classification(rule, matched.rules),
        matches=_matches(matched),
        required_tier=_highest(_denied(matched)),
        approval=_terms([r for r in matched.rules if r.effect == REQUIRE_APPROVAL]),
        scan=_scan(binding, matched.results),
        redact=_everywhere(binding, matched),
        redact_in=_by_argument(binding),
    )


def _decide(matched: Matched) -> tuple[str, str, str, Rule | None]:
    """Return outcome, reason, what blocked, and the rule that decided."""
    blocks = sorted(
        [(r.id, _named(r), r) for r in matched.rules if r.effect == BLOCK]
        + [(r.id, f"{_named(r)}: its condition failed, {why}", r) for r, why in matched.failed]
        + [(s.id, _seen(s, matched.place), None) for s in matched.settings if s.action == BLOCK],
        key=lambda block: block[:2],
    )
    if blocks:
        name, said, rule = blocks[0]
        more = f" (and {len(blocks) - 1} more)" if len(blocks) > 1 else ""
        message = f": {rule.message}" if rule is not None and rule.message and rule.effect == BLOCK else ""
        return BLOCK, f"blocked by {said}{more}{message}", name, rule
    if denied := _denied(matched):
        tier = _highest(denied)
        rule = next(r for r in denied if r.tier == tier)
        has = matched.tier if matched.tier in TIERS else "none"
        return (
            REQUIRE_TIER,
            f"blocked by {_named(rule)}: it needs trust tier {tier}, the agent has {has}",
            rule.id,
            rule,
        )
    if held := [r for r in matched.rules if r.effect == REQUIRE_APPROVAL]:
        rule = held[0]
        return REQUIRE_APPROVAL, f"blocked by {_named(rule)}: it needs an approval{_words(rule)}", rule.id, rule
    allowed = next((r for r in matched.rules if r.effect == ALLOW), None)
    if allowed is None and matched.default == BLOCK:
        source = f" ({matched.default_source})" if matched.default_source else ""
        return BLOCK, f"blocked by `default: block`{source}: no rule allows it", "default", None
    return ALLOW, "", "", allowed


def _named(rule: Rule) -> str:
    return f"rule `{rule.id}` ({rule.source})" if rule.source else f"rule `{rule.id}`"


def _seen(setting: DetectSetting, place: str) -> str:
    source = f" ({setting.source})" if setting.source else ""
    return f"`{setting.id}`{source}: its {place} {'holds' if place == PROMPT else 'hold'} {_HOLDS[setting.category]}"


def _words(rule: Rule) -> str:
    return f": {rule.message}" if rule.message else ""


def _denied(matched: Matched) -> list[Rule]:
    # An unknown tier is below all others.
    has = TIERS.index(matched.tier) if matched.tier in TIERS else -1
    return [r for r in matched.rules if r.effect == REQUIRE_TIER and TIERS.index(r.tier) > has]


def _highest(rules: Iterable[Rule]) -> str:
    return max((rule.tier for rule in rules), key=TIERS.index, default="")


def _classification(decided: Rule | None, rules: Iterable[Rule]) -> str:
    """Return the deciding rule's, else that of the first rule that has one."""
    if decided is not None and decided.classification:
        return decided.classification
    return next((rule.classification for rule in rules if rule.classification), "")


def _matches(matched: Matched) -> tuple[RuleMatch, ...]:
    found = [RuleMatch(id=r.id, effect=r.effect, source=r.source) for r in matched.rules]
    found += [RuleMatch(id=r.id, effect=FAILED, source=r.source) for r, _ in matched.failed]
    found += [RuleMatch(id=s.id, effect=s.action, source=s.source) for s in matched.settings]
    return tuple(sorted(found, key=lambda match: match.id))


def _terms(rules: list[Rule]) -> ApprovalTerms | None:
    """Return what satisfies all of these rules at once."""
    if not rules:
        return None
    return ApprovalTerms(
        approvers=max(rule.approvers for rule in rules),
        expires_in_s=min((rule.expires_in_s for rule in rules if rule.expires_in_s), default=0),
        message="; ".join(dict.fromkeys(rule.message for rule in rules if rule.message)),
    )


def _scan(rules: Iterable[Rule], settings: Iterable[DetectSetting]) -> ScanResult | None:
    redact = {kind for rule in rules if RESULT in rule.fields for kind in rule.kinds}
    require = bool(redact)
    by_action: dict[str, set[str]] = {REDACT: redact, BLOCK: set(), FLAG: set()}
    for setting in settings:
        by_action[setting.action].add(setting.category)
        # Unless somebody asked for it, a result that cannot be looked into is no reason to withhold it.
        require |= setting.action != FLAG and not setting.built_in
    if not any(by_action.values()):
        return None
    redacted, blocked, flagged = (tuple(sorted(by_action[action])) for action in (REDACT, BLOCK, FLAG))
    return ScanResult(redact=redacted, block=blocked, flag=flagged, require=require)


def _everywhere(rules: Iterable[Rule], matched: Matched) -> frozenset[str]:
    kinds = {kind for rule in rules if matched.place in rule.fields for kind in rule.kinds}
    return frozenset(kinds | {s.category for s in matched.settings if s.action == REDACT})


def _by_argument(rules: Iterable[Rule]) -> dict[str, frozenset[str]]:
    out: dict[str, frozenset[str]] = {}
    for rule in rules:
        for name in rule.fields:
            if name.startswith("args."):
                argument = name.removeprefix("args.")
                out[argument] = out.get(argument, frozenset()) | frozenset(rule.kinds)
    return out


__all__ = ["ARGUMENTS", "FAILED", "Matched", "merge"]
