"""Every error tappass raises.

    TapPassError
    ├── TapPassConnectionError      the plane cannot be reached, or cannot write; nothing ran
    ├── TapPassConfigError          a setting, a policy, a signature or an extra is wrong
    └── GovernanceDecision          the plane answered, and the answer is not a plain yes
        ├── PolicyBlockError        .blocked_by .classification
        ├── RedactionApplied        .redactions .redacted_content
        ├── ApprovalRequired        .approval_url .resume_token .expires_at
        ├── TrustTierDenied         .required_tier .actual_tier
        ├── BreakGlassActive        .level .expires_at
        └── ToolIntegrityViolation  .tool_name .violation

A message says what happened, to what, and what to do next; it holds no secret and no payload.
All survive `pickle` and `copy`.
"""

from __future__ import annotations

from typing import Any

from tappass.wire.correlation import Correlation
from tappass.wire.findings import Redaction


class TapPassError(Exception):
    """The root of all errors raised by tappass."""

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's own would call `cls(*args)` and lose the keyword-only attributes.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(cls: type[TapPassError], args: tuple[Any, ...], state: dict[str, Any]) -> TapPassError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class TapPassConnectionError(TapPassError):
    """The control plane did not answer or could not write its record, so nothing ran."""


class TapPassConfigError(TapPassError):
    """A setting, a policy file, a signature or an installation is wrong; the message names the place."""


class GovernanceDecision(TapPassError):
    """The plane's answer to one call, with the ids that lead to its record.

    Attributes:
        reason: why, in one sentence.
        session_id, task_id, agent_uuid, pipeline_uuid, audit_url: where the record is.
        ran: whether the call itself ran, so that it is its result which may not be seen; set where that is known.
    """

    ran: bool = False

    def __init__(self, message: str = "", *, reason: str = "", correlation: Correlation | None = None) -> None:
        super().__init__(message or reason)
        ids = correlation or Correlation()
        self.reason = reason or message
        self.session_id = ids.session_id
        self.task_id = ids.task_id
        self.agent_uuid = ids.agent_uuid
        self.pipeline_uuid = ids.pipeline_uuid
        self.audit_url = ids.audit_url

    @property
    def correlation(self) -> Correlation:
        """The five ids as one value."""
        return Correlation.of(self)


class PolicyBlockError(GovernanceDecision):
    """A rule, a detector setting or a budget forbids the call.

    Attributes:
        blocked_by: the id of the rule, or of the setting, that decided.
        classification: what the rule calls the data at stake, "" if it does not say.
    """

    def __init__(
        self,
        message: str = "",
        *,
        blocked_by: str = "",
        classification: str = "",
        reason: str = "",
        correlation: Correlation | None = None,
    ) -> None:
        super().__init__(message, reason=reason, correlation=correlation)
        self.blocked_by = blocked_by
        self.classification = classification


class RedactionApplied(GovernanceDecision):
    """Something was redacted, and `raise_on_redaction` asked for an error rather than the redacted value.

    Attributes:
        redactions: what was replaced, positions in code points of the original.
        redacted_content: the value after redaction.
    """

    def __init__(
        self,
        message: str = "",
        *,
        redactions: tuple[Redaction, ...] = (),
        redacted_content: Any = "",
        reason: str = "",
        correlation: Correlation | None = None,
    ) -> None:
        super().__init__(message, reason=reason, correlation=correlation)
        self.redactions = redactions
        self.redacted_content = redacted_content


class ApprovalRequired(GovernanceDecision):
    """People have to agree first; nothing ran.

    Attributes:
        approval_url: where they decide.
        resume_token: names the held call; it runs exactly this action, once.
        expires_at: RFC 3339, UTC.
    """

    def __init__(
        self,
        message: str = "",
        *,
        approval_url: str = "",
        resume_token: str = "",
        expires_at: str = "",
        reason: str = "",
        correlation: Correlation | None = None,
    ) -> None:
        super().__init__(message, reason=reason, correlation=correlation)
        self.approval_url = approval_url
        self.resume_token = resume_token
        self.expires_at = expires_at


class TrustTierDenied(GovernanceDecision):
    """The agent's trust tier is below the one the call needs; nothing ran.

    Attributes:
        required_tier, actual_tier: untrusted, limited, standard, trusted or privileged.
    """

    def __init__(
        self,
        message: str = "",
        *,
        required_tier: str = "",
        actual_tier: str = "",
        reason: str = "",
        correlation: Correlation | None = None,
    ) -> None:
        super().__init__(message, reason=reason, correlation=correlation)
        self.required_tier = required_tier
        self.actual_tier = actual_tier


class BreakGlassActive(GovernanceDecision):
    """An emergency override is in force, and the caller had not agreed to act under one.

    Attributes:
        level: relax, bypass_step or full_bypass.
        expires_at: RFC 3339, UTC.
    """

    def __init__(
        self,
        message: str = "",
        *,
        level: str = "",
        expires_at: str = "",
        reason: str = "",
        correlation: Correlation | None = None,
    ) -> None:
        super().__init__(message, reason=reason, correlation=correlation)
        self.level = level
        self.expires_at = expires_at


class ToolIntegrityViolation(GovernanceDecision):
    """The tool is not the one that was approved; nothing ran.

    Attributes:
        tool_name: the tool.
        violation: not_approved, hash_mismatch or revoked.
    """

    def __init__(
        self,
        message: str = "",
        *,
        tool_name: str = "",
        violation: str = "",
        reason: str = "",
        correlation: Correlation | None = None,
    ) -> None:
        super().__init__(message, reason=reason, correlation=correlation)
        self.tool_name = tool_name
        self.violation = violation


__all__ = [
    "ApprovalRequired",
    "BreakGlassActive",
    "GovernanceDecision",
    "PolicyBlockError",
    "RedactionApplied",
    "TapPassConfigError",
    "TapPassConnectionError",
    "TapPassError",
    "ToolIntegrityViolation",
    "TrustTierDenied",
]
