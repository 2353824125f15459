"""Error bodies, read: the six decisions, and what else a server says is wrong."""

from __future__ import annotations

from typing import Any

import msgspec

from tappass.enforcement.verdicts import printable
from tappass.errors import (
    ApprovalRequired,
    BreakGlassActive,
    GovernanceDecision,
    PolicyBlockError,
    RedactionApplied,
    ToolIntegrityViolation,
    TrustTierDenied,
)
from tappass.verify import CorrelationRefused
from tappass.wire.correlation import Correlation
from tappass.wire.findings import Redaction

_LONGEST = 2000


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """An error body as far as it becomes an exception. `ran`: the call itself ran, its result is refused."""

    decision: str = ""
    message: str = ""
    reason: str = ""
    ran: bool = False
    session_id: str = ""
    task_id: str = ""
    agent_uuid: str = ""
    pipeline_uuid: str = ""
    audit_url: str = ""
    blocked_by: str = ""
    classification: str = ""
    redactions: tuple[Redaction, ...] = ()
    redacted_content: Any = ""
    approval_url: str = ""
    resume_token: str = ""
    expires_at: str = ""
    required_tier: str = ""
    actual_tier: str = ""
    level: str = ""
    tool_name: str = ""
    violation: str = ""


class _Told(msgspec.Struct, frozen=True):
    code: str = ""


class _Coded(msgspec.Struct, frozen=True):
    error: _Told = _Told()


_TOKEN = "correlation_"  # noqa: S105 - no secret: how error codes begin that are about a token

_FIELDS: dict[str, tuple[type[GovernanceDecision], tuple[str, ...]]] = {
    "policy_block": (PolicyBlockError, ("blocked_by", "classification")),
    "redaction_applied": (RedactionApplied, ("redactions", "redacted_content")),
    "approval_required": (ApprovalRequired, ("approval_url", "resume_token", "expires_at")),
    "trust_tier_denied": (TrustTierDenied, ("required_tier", "actual_tier")),
    "break_glass_active": (BreakGlassActive, ("level", "expires_at")),
    "tool_integrity_violation": (ToolIntegrityViolation, ("tool_name", "violation")),
}


def decision_in(body: bytes) -> GovernanceDecision | None:
    """Return the decision that an error body (or an event of a stream) holds, None if it holds none.

    A decision of a kind that this version does not know is a block.
    """
    try:
        said = msgspec.json.decode(body, type=Refused)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not said.decision:
        return None
    kind, names = _FIELDS.get(said.decision, (PolicyBlockError, ()))
    fields: dict[str, Any] = {name: getattr(said, name) for name in names}
    if not names:
        fields["blocked_by"] = "unknown-decision"
    message = readable(said.message or said.reason) or f"refused with decision {printable(said.decision)!r}"
    error = kind(message, reason=readable(said.reason), correlation=Correlation.of(said), **fields)
    error.ran = said.ran
    return error


def token_refusal_in(body: bytes) -> CorrelationRefused | None:
    """Return what an error body says of a correlation token, None if it is about something else."""
    try:
        code = msgspec.json.decode(body, type=_Coded).error.code
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not code.startswith(_TOKEN):
        return None
    return CorrelationRefused(
        readable(code.removeprefix(_TOKEN)), detail_of(body).removeprefix(CorrelationRefused.said)
    )


def detail_of(body: bytes) -> str:
    """Return what an error body says is wrong (RFC 9457's `detail`), "" if it is none of ours."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    detail = said.get("detail") if isinstance(said, dict) else None
    return readable(detail) if isinstance(detail, str) else ""


def readable(text: str) -> str:
    """Return a server's words, fit for a terminal: bounded, nothing in them that moves a cursor."""
    text = text[:_LONGEST]
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
