"""From the errors a plane raises to the refusals of the wire."""

from __future__ import annotations

from tappass.errors import (
    ApprovalRequired,
    BreakGlassActive,
    GovernanceDecision,
    PolicyBlockError,
    RedactionApplied,
    ToolIntegrityViolation,
    TrustTierDenied,
)
from tappass.wire.codec import encode
from tappass.wire.refusals import (
    ApprovalNeeded,
    BreakGlass,
    IntegrityViolation,
    PolicyBlock,
    RedactionAppliedBody,
    Refusal,
    TierDenied,
)


def refusal_of(error: GovernanceDecision) -> Refusal:
    """Return what a refusal's error body says; one of no known kind is a block."""
    match error:
        case PolicyBlockError():
            return PolicyBlock(blocked_by=error.blocked_by, classification=error.classification)
        case RedactionApplied():
            content = error.redacted_content
            text = content if isinstance(content, str) else encode(content).decode()
            return RedactionAppliedBody(redactions=error.redactions, redacted_content=text)
        case ApprovalRequired():
            return ApprovalNeeded(
                approval_url=error.approval_url, resume_token=error.resume_token, expires_at=error.expires_at
            )
        case TrustTierDenied():
            return TierDenied(required_tier=error.required_tier, actual_tier=error.actual_tier)
        case BreakGlassActive():
            return BreakGlass(level=error.level, expires_at=error.expires_at)
        case ToolIntegrityViolation():
            return IntegrityViolation(tool_name=error.tool_name, violation=error.violation)
        case _:
            return PolicyBlock(blocked_by="unknown")


def status_of(refusal: Refusal) -> int:
    """Return the status of its answer: 428 where people have to agree first, else 403."""
    return 428 if isinstance(refusal, ApprovalNeeded) else 403
