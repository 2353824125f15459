"""Errors as they travel: problem details (RFC 9457), an OpenAI-shaped `error`, and which way the plane said no.

No body holds a key, a payload, or what went wrong inside.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import msgspec

from tappass.errors import (
    ApprovalRequired,
    BreakGlassActive,
    GovernanceDecision,
    PolicyBlockError,
    RedactionApplied,
    TapPassConnectionError,
    ToolIntegrityViolation,
    TrustTierDenied,
)
from tappass.verify import CorrelationRefused
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

MEDIA_TYPE: Final = "application/problem+json"

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_REDACTION = ("kind", "start", "end", "replacement")


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """`error` as the OpenAI API has it; `param` names the field that is wrong."""

    message: str
    type: str
    code: str
    param: str | None = None


class ProblemBody(msgspec.Struct, frozen=True, kw_only=True):
    """A problem (RFC 9457) as every route answers it; `message` and `reason` say what `detail` says."""

    type: str
    title: str
    status: int
    detail: str
    message: str
    reason: str
    error: Told


def problem(status: int, detail: str, *, code: str, param: str | None = None) -> ProblemBody:
    """Return a problem as it travels.

    Args:
        status: the HTTP status.
        detail: what is wrong and what to do about it; no secret, no payload.
        code: names the problem for programs.
        param: the field that is wrong.
    """
    return ProblemBody(
        type=f"urn:tappass:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        message=detail,
        reason=detail,
        error=Told(message=detail, type=kind_of(status), code=code, param=param),
    )


def kind_of(status: int) -> str:
    """Return what OpenAI calls errors of that status."""
    return _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def refused(error: GovernanceDecision) -> dict[str, Any]:
    """Return the body of one of the six ways a plane says no: its fields at top level, beside the five ids.

    `message` says it in full, as the embedded plane does; `ran` that it is the answer which may not be seen.
    """
    refusal, reason = refusal_of(error), error.reason
    told = msgspec.to_builtins(refusal)
    if "redactions" in told:
        # Exactly these keys; where in the value it was is not among them.
        told["redactions"] = [{key: each[key] for key in _REDACTION} for each in told["redactions"]]
    status, decision = status_of(refusal), told["decision"]
    return {
        **told,
        "message": str(error),
        "reason": reason,
        "ran": error.ran,
        **msgspec.structs.asdict(error.correlation),
        "error": msgspec.to_builtins(Told(message=reason, type="permission_error", code=decision)),
        "type": f"urn:tappass:problem:{decision}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": reason,
    }


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


OUTAGE: Final = "the control plane cannot keep its record now, so nothing may run; try again"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP answer that tells of an error: `body` is JSON, of the type `application/problem+json`."""

    status: int
    code: str
    body: bytes
    headers: dict[str, str] = {}


def answer_to(error: BaseException) -> Answer | None:
    """Return the answer that tells of one of our errors, None for what is nobody's to answer but the application's.

    403 where the plane said no or a correlation token was refused, 428 where people have to agree first, 503 where the
    plane cannot be reached.
    """
    if isinstance(error, GovernanceDecision):
        body = refused(error)
        return Answer(status=body["status"], code=body["decision"], body=encode(body))
    if isinstance(error, CorrelationRefused):
        return _answer(403, str(error), f"correlation_{error.problem}")
    if isinstance(error, TapPassConnectionError):
        return _answer(503, OUTAGE, "plane_unavailable", {"Retry-After": "1"})
    return None


def _answer(status: int, detail: str, code: str, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status=status, code=code, body=encode(problem(status, detail, code=code)), headers=headers or {})
