"""The gate of break-glass: what an override in force lets run although it was refused."""

from __future__ import annotations

from tappass.engine.breakglass import ACTIVE, BYPASS_STEP, FULL_BYPASS, LEVELS, RELAX, find, parsed, scope_of, see
from tappass.engine.gate import Gate
from tappass.engine.judgement import Judgement, facts_of
from tappass.engine.leaves import Leaves
from tappass.engine.policy import document
from tappass.engine.policy.merge import FAILED
from tappass.engine.store.port import Tx
from tappass.wire.ids import Clock
from tappass.wire.refusals import BreakGlass, IntegrityViolation, PolicyBlock

_DETECTORS = frozenset(f"detect.{category}.{place}" for category in document.CATEGORIES for place in document.PLACES)


class Overriding(Gate):
    """Relaxes a refusal as far as an override that is in force goes.

    A call that nothing refuses is not under break-glass: it runs as on any other day.
    """

    def __init__(self, leaves: Leaves, clock: Clock) -> None:
        self._leaves = leaves
        self._clock = clock
        self._deadlines: dict[str, int] = {}

    def check(self, tx: Tx, judged: Judgement) -> None:
        """Let a refused call run, on the record, if an override covers it."""
        if not judged.controls.overrides:
            return
        refused = judged.refusal is not None or judged.held
        needed = LEVELS.index(_needed(judged, self._clock.time_ns())) if refused else len(LEVELS)
        name, agent = judged.request.action.name, judged.opened.record.agent
        for override in sorted(judged.controls.overrides, key=lambda each: LEVELS.index(each.level)):
            # Seen even where it does not apply: the latest time that anybody saw counts.
            if not self._lives(tx, override.break_glass_id):
                continue
            if refused and LEVELS.index(override.level) >= needed and scope_of(override.scope).covers(name, agent):
                self._override(tx, judged, override.break_glass_id, override.level, override.expires_at)
                return

    def _lives(self, tx: Tx, glass_id: str) -> bool:
        row = find(tx, self._leaves.org_id, glass_id)
        if row is None or row.state != ACTIVE:
            return False
        now, monotonic = self._clock.time_ns(), self._clock.monotonic_ns()
        # The wall clock may be stopped or set; the other one cannot, but every process has its own.
        left = parsed(row.expires_at) - max(now, parsed(row.seen_at))
        deadline = self._deadlines.setdefault(glass_id, monotonic + left)
        return see(tx, self._leaves, row, now, over=monotonic >= deadline)

    def _override(self, tx: Tx, judged: Judgement, glass_id: str, level: str, expires_at: str) -> None:
        judged.relax()
        judged.break_glass = BreakGlass(level=level, expires_at=expires_at)
        event = self._leaves.of(
            judged.opened.leaf,
            "break_glass.used",
            task_id=judged.request.task_id,
            kind=judged.request.action.kind,
            name=judged.request.action.name,
            would_be=judged.would_be,
            blocked_by=judged.blocked_by,
            details={"break_glass": glass_id, "level": level},
        )
        tx.append(event)


def _needed(judged: Judgement, now_ns: int) -> str:
    """Return the lowest level that relaxes everything that speaks against a call."""
    refusal = judged.refusal
    if isinstance(refusal, IntegrityViolation):
        return max(BYPASS_STEP, _hidden(judged), key=LEVELS.index)
    if not isinstance(refusal, PolicyBlock):
        return _hidden(judged)
    if judged.blocked_by == "detector-failed":
        return _without_findings(judged, now_ns)
    if judged.blocked_by in _DETECTORS:
        return max(BYPASS_STEP, _hidden(judged), key=LEVELS.index)
    return FULL_BYPASS


def _hidden(judged: Judgement) -> str:
    """Return what it takes to relax the blocks of policy that stand behind a milder or an earlier refusal."""
    if judged.opened.record.mode == "observe":
        return RELAX
    matches = judged.verdict.matches
    if any(match.effect in (document.BLOCK, FAILED) and match.id not in _DETECTORS for match in matches):
        return FULL_BYPASS
    # A tier that is enough allows nothing by itself; a granted approval does.
    permitted = any(match.effect in (document.ALLOW, document.REQUIRE_APPROVAL) for match in matches)
    closed = judged.opened.pipeline.policy.document.default == document.BLOCK
    return FULL_BYPASS if closed and not permitted else RELAX


def _without_findings(judged: Judgement, now_ns: int) -> str:
    """Return what it takes where a detector failed: policy is asked what it says without findings."""
    facts = facts_of(judged.opened, judged.request.action, judged.controls, (), now_ns)
    try:
        verdict = judged.opened.pipeline.policy.evaluate(facts)
    except Exception:  # no answer from policy is a no
        return FULL_BYPASS
    # What it asks for beside its outcome, such as masking the result, holds under an override too.
    judged.verdict = verdict
    return max(BYPASS_STEP, _hidden(judged), key=LEVELS.index)
