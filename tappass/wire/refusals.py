"""The six ways a plane says no, as they stand in an error body; `decision` names which one it is."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from tappass.wire.findings import Redaction


class PolicyBlock(msgspec.Struct, frozen=True, kw_only=True, tag_field="decision", tag="policy_block"):
    """A rule, a detector setting or a budget forbids the call."""

    blocked_by: str
    classification: str = ""
    details: dict[str, str] = {}


class RedactionAppliedBody(msgspec.Struct, frozen=True, kw_only=True, tag_field="decision", tag="redaction_applied"):
    """Something was redacted and the caller had asked to be told by an error."""

    redactions: tuple[Redaction, ...]
    redacted_content: str


class ApprovalNeeded(msgspec.Struct, frozen=True, kw_only=True, tag_field="decision", tag="approval_required"):
    """People have to agree first. `expires_at` is RFC 3339, UTC."""

    approval_url: str
    resume_token: str
    expires_at: str


class TierDenied(msgspec.Struct, frozen=True, kw_only=True, tag_field="decision", tag="trust_tier_denied"):
    """The agent's trust tier is below what the call needs."""

    required_tier: str
    actual_tier: str


class BreakGlass(msgspec.Struct, frozen=True, kw_only=True, tag_field="decision", tag="break_glass_active"):
    """An emergency override is in force and the caller had asked not to act under one."""

    level: str
    expires_at: str


class IntegrityViolation(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="decision", tag="tool_integrity_violation"
):
    """The tool is not the one that was approved: `not_approved`, `hash_mismatch` or `revoked`."""

    tool_name: str
    violation: str


Refusal: TypeAlias = PolicyBlock | RedactionAppliedBody | ApprovalNeeded | TierDenied | BreakGlass | IntegrityViolation
