"""Our errors as Temporal's failures, and back: types and fields, no payloads."""

from __future__ import annotations

from typing import Any

import msgspec
from temporalio.exceptions import ActivityError, ApplicationError, ApplicationErrorCategory, ChildWorkflowError

from tappass import Correlation
from tappass.errors import (
    ApprovalRequired,
    BreakGlassActive,
    GovernanceDecision,
    PolicyBlockError,
    RedactionApplied,
    TapPassConfigError,
    TapPassConnectionError,
    TapPassError,
    ToolIntegrityViolation,
    TrustTierDenied,
)

BENIGN, UNSPECIFIED = ApplicationErrorCategory.BENIGN, ApplicationErrorCategory.UNSPECIFIED

# What an error says beside its reason and its ids. Not RedactionApplied's content: that is a payload.
_FIELDS: dict[type[TapPassError], tuple[str, ...]] = {
    ApprovalRequired: ("approval_url", "resume_token", "expires_at"),
    BreakGlassActive: ("level", "expires_at"),
    PolicyBlockError: ("blocked_by", "classification"),
    RedactionApplied: (),
    TapPassConfigError: (),
    TapPassConnectionError: (),
    ToolIntegrityViolation: ("tool_name", "violation"),
    TrustTierDenied: ("required_tier", "actual_tier"),
}
_TYPES = {kind.__name__: kind for kind in _FIELDS}


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The one detail of a failure of ours; texts, as in `tappass.errors`."""

    tappass: str
    reason: str = ""
    ran: bool = False
    session_id: str = ""
    task_id: str = ""
    agent_uuid: str = ""
    pipeline_uuid: str = ""
    audit_url: str = ""
    approval_url: str = ""
    resume_token: str = ""
    expires_at: str = ""
    level: str = ""
    blocked_by: str = ""
    classification: str = ""
    tool_name: str = ""
    violation: str = ""
    required_tier: str = ""
    actual_tier: str = ""


def failure_of(error: TapPassError) -> ApplicationError:
    """Return the failure for an error; only a plane that did not answer is worth another attempt."""
    kind = next(cls for cls in type(error).__mro__ if cls in _FIELDS or cls is TapPassError)
    if kind is TapPassError:
        kind = TapPassConfigError
    fields: dict[str, Any] = {name: getattr(error, name) for name in _FIELDS[kind]}
    if isinstance(error, GovernanceDecision):
        fields |= {"reason": error.reason, "ran": error.ran, **msgspec.structs.asdict(error.correlation)}
    details = Details(tappass=kind.__name__, **fields)
    return ApplicationError(
        str(error),
        msgspec.to_builtins(details),
        type=kind.__name__,
        non_retryable=kind is not TapPassConnectionError,
        # That people are asked is no trouble for a log to warn of.
        category=BENIGN if kind is ApprovalRequired else UNSPECIFIED,
    )


def details_of(failure: BaseException | None) -> Details | None:
    """Return the details of a failure that is one of ours, else None."""
    if not isinstance(failure, ApplicationError) or failure.type not in _TYPES or not failure.details:
        return None
    try:
        details = msgspec.convert(failure.details[0], Details)
    except msgspec.ValidationError:
        return None
    return details if details.tappass == failure.type else None


def error_of(failure: BaseException | None) -> TapPassError | None:
    """Return our error that a failure stands for, or that the activity or the child behind it ended with.

    An error that a workflow raised itself is that workflow's answer, whatever caused it.
    """
    while isinstance(failure, ActivityError | ChildWorkflowError):
        failure = failure.cause
    details = details_of(failure)
    if details is None:
        return None
    assert isinstance(failure, ApplicationError)
    kind = _TYPES[details.tappass]
    if not issubclass(kind, GovernanceDecision):
        return kind(failure.message)
    fields: dict[str, Any] = {name: getattr(details, name) for name in _FIELDS[kind]}
    error = kind(failure.message, reason=details.reason, correlation=Correlation.of(details), **fields)
    if details.ran:
        error.ran = True
    return error


def refused_by_people(state: str, held: Details) -> PolicyBlockError:
    """Return the refusal for an approval that was denied, expired or taken back; its own leaf is in the log."""
    said = {"denied": "was denied by people", "expired": "was not approved in time", "cancelled": "was taken back"}
    reason = said.get(state, "cannot be approved any more")
    return PolicyBlockError(
        f"the call {reason}; it did not run; see {held.audit_url}",
        blocked_by=f"approval-{state}",
        reason=reason,
        correlation=Correlation.of(held),
    )
