"""Carrying out what a decision obliges us to."""

from __future__ import annotations

from typing import Any

from tappass.enforcement.action import Call
from tappass.enforcement.projection import is_encoded
from tappass.enforcement.redaction import KEY
from tappass.enforcement.showing import Unrebuildable, rebuild
from tappass.enforcement.verdicts import printable, redacted, unknown_obligation
from tappass.errors import PolicyBlockError, TapPassConfigError
from tappass.wire.correlation import Correlation
from tappass.wire.decisions import Decision
from tappass.wire.findings import Redaction
from tappass.wire.obligations import RedactArguments, ScanResult


def bounded(call: Call, decision: Decision) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments a call may run with, obligations on them carried out.

    Raises:
        PolicyBlockError: an obligation is unknown, or cannot be carried out on these arguments.
        RedactionApplied: something had to be redacted and the caller asked for an error instead.
    """
    changed: dict[str, Any] = {}
    for obligation in decision.obligations:
        match obligation:
            case ScanResult():  # after the call
                if call.unseen and obligation.require:
                    raise _uninspectable(call.action.name, decision.correlation)
            case RedactArguments():
                changed.update(_redacted(call, obligation, decision))
            case _:
                raise unknown_obligation(obligation, call.action.name, decision.correlation)
    if not changed:
        return call.args, call.kwargs
    if call.raise_on_redaction:
        redactions = tuple(r for o in decision.obligations if isinstance(o, RedactArguments) for r in o.redactions)
        raise redacted(redactions, changed, call.action.name, decision.correlation, ran=False)
    return call.rebind(changed)


def _redacted(call: Call, obligation: RedactArguments, decision: Decision) -> dict[str, Any]:
    try:
        for redaction in obligation.redactions:
            _refuse_beside(call, redaction)
        clean = rebuild(call.originals, obligation.redactions)
    except (Unrebuildable, TapPassConfigError) as error:
        inside = f"inside a {error}, which cannot be rebuilt" if isinstance(error, Unrebuildable) else "where it is not"
        raise not_redactable(call.action.name, inside, decision.correlation) from None
    return {name: value for name, value in clean.items() if value is not call.originals[name]}


def not_redactable(name: str, inside: str, ids: Correlation) -> PolicyBlockError:
    """Return the block for a call that may only run redacted, where its arguments cannot be replaced."""
    return _unfit(name, "argument-not-redactable", f"holds what must be redacted {inside}", ids)


def _uninspectable(name: str, ids: Correlation) -> PolicyBlockError:
    return _unfit(name, "result-not-inspectable", "gives a result that must be inspected, where nobody can see it", ids)


def _unfit(name: str, blocked_by: str, reason: str, ids: Correlation) -> PolicyBlockError:
    return PolicyBlockError(
        f"`{printable(name)}` {reason}; nothing ran; see {ids.audit_url}",
        blocked_by=blocked_by,
        reason=reason,
        correlation=ids,
    )


def _refuse_beside(call: Call, redaction: Redaction) -> None:
    """Refuse what could only be replaced beside the value that the tool gets."""
    if redaction.where.count("/") == 1 and redaction.where.endswith(KEY):
        raise Unrebuildable("name of an argument")
    if is_encoded(redaction.where, call.action.types):
        raise Unrebuildable("value that an encoder shows")


def scan_of(decision: Decision) -> ScanResult | None:
    """Return the obligation that a result is under, if any."""
    return next((o for o in decision.obligations if isinstance(o, ScanResult)), None)
