"""From a decision to the exception that carries it."""

from __future__ import annotations

from typing import Any

from tappass.errors import (
    ApprovalRequired,
    BreakGlassActive,
    GovernanceDecision,
    PolicyBlockError,
    RedactionApplied,
    ToolIntegrityViolation,
    TrustTierDenied,
)
from tappass.wire.correlation import Correlation
from tappass.wire.decisions import BLOCK, NEEDS_APPROVAL, Decision
from tappass.wire.endings import Settlement
from tappass.wire.findings import Redaction
from tappass.wire.refusals import (
    ApprovalNeeded,
    BreakGlass,
    IntegrityViolation,
    PolicyBlock,
    RedactionAppliedBody,
    TierDenied,
)


def printable(name: str) -> str:
    """Return a name that came from outside, fit for a message or a log line."""
    return name if name.isprintable() and len(name) <= 200 else ascii(name[:200])[1:-1]


def refusal(decision: Decision, name: str) -> GovernanceDecision:
    """Return the exception for a decision that is not a plain yes; an unknown one becomes a block."""
    ids = decision.correlation
    reason = decision.reason or f"refused with outcome {printable(decision.outcome)!r}"
    message = f"`{printable(name)}` {reason}; nothing ran; see {ids.audit_url}"
    common: dict[str, Any] = {"reason": reason, "correlation": ids}
    match decision.refusal:
        case PolicyBlock() as row:
            return PolicyBlockError(message, blocked_by=row.blocked_by, classification=row.classification, **common)
        case ApprovalNeeded() as row:
            return ApprovalRequired(
                message,
                approval_url=row.approval_url,
                resume_token=row.resume_token,
                expires_at=row.expires_at,
                **common,
            )
        case TierDenied() as row:
            return TrustTierDenied(message, required_tier=row.required_tier, actual_tier=row.actual_tier, **common)
        case BreakGlass() as row:
            return BreakGlassActive(message, level=row.level, expires_at=row.expires_at, **common)
        case IntegrityViolation() as row:
            return ToolIntegrityViolation(message, tool_name=row.tool_name, violation=row.violation, **common)
        case RedactionAppliedBody() as row:
            return RedactionApplied(message, redactions=row.redactions, redacted_content=row.redacted_content, **common)
        case _:
            return PolicyBlockError(message, blocked_by=_unnamed(decision), **common)


def _unnamed(decision: Decision) -> str:
    if decision.outcome in (BLOCK, NEEDS_APPROVAL):
        return decision.rules[0].id if decision.rules else decision.outcome
    return "unknown-outcome"


def break_glass(decision: Decision, row: BreakGlass, name: str) -> BreakGlassActive:
    """Return the error for a caller who had not agreed to act under an override that is in force."""
    return BreakGlassActive(
        f"`{printable(name)}` would run under break-glass ({row.level}, until {row.expires_at}); nothing ran; "
        f"see {decision.correlation.audit_url}, or pass respect_breakglass=True to go on under it",
        level=row.level,
        expires_at=row.expires_at,
        correlation=decision.correlation,
    )


def unknown_obligation(obligation: object, name: str, ids: Correlation) -> PolicyBlockError:
    """Return the block for an obligation that this enforcement point cannot carry out."""
    kind = printable(getattr(obligation, "unknown_kind", type(obligation).__name__))
    return PolicyBlockError(
        f"`{printable(name)}` was allowed under an obligation that this version cannot carry out ({kind}); "
        f"nothing ran; upgrade tappass; see {ids.audit_url}",
        blocked_by="unknown-obligation",
        reason=f"unknown obligation {kind}",
        correlation=ids,
    )


def withheld(settlement: Settlement, name: str, ids: Correlation) -> PolicyBlockError:
    """Return the block for a result that must not be seen; the call itself has run."""
    reason = settlement.reason or f"its result is withheld by `{settlement.withheld_by}`"
    error = PolicyBlockError(
        f"`{printable(name)}` ran, but {reason}; see {ids.audit_url}",
        blocked_by=settlement.withheld_by,
        reason=reason,
        correlation=ids,
    )
    error.ran = True
    return error


def redacted(
    redactions: tuple[Redaction, ...], content: Any, name: str, ids: Correlation, *, ran: bool
) -> RedactionApplied:
    """Return the error that `raise_on_redaction` asked for."""
    kinds = ", ".join(sorted({r.kind for r in redactions}))
    where = "result" if ran else "arguments"
    error = RedactionApplied(
        f"`{printable(name)}`: {kinds} redacted in its {where}; {'it ran' if ran else 'nothing ran'}; "
        f"see {ids.audit_url}",
        redactions=redactions,
        redacted_content=content,
        reason=f"{kinds} redacted in the {where}",
        correlation=ids,
    )
    error.ran = ran
    return error
