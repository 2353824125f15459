"""What findings oblige to: redacted arguments before a call, a redacted or withheld result after it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from tappass.enforcement.projection import escape
from tappass.enforcement.redaction import StreamRedactor, merge, redact_value
from tappass.engine.detect.detectors import Detectors, expand
from tappass.engine.policy.facts import Verdict
from tappass.engine.settings import Settings
from tappass.errors import TapPassConfigError
from tappass.wire.decisions import Action
from tappass.wire.endings import Settlement
from tappass.wire.findings import Finding
from tappass.wire.obligations import Obligation, RedactArguments, ScanResult


@lru_cache(maxsize=256)
def kinds_of(names: tuple[str, ...]) -> frozenset[str]:
    """Return the finding kinds that kinds and categories stand for."""
    return expand(names)


@lru_cache(maxsize=64)
def detectors_for(names: tuple[str, ...]) -> Detectors:
    """Return the detectors of these kinds and categories, made once."""
    return Detectors(names)


def obligations(verdict: Verdict, findings: tuple[Finding, ...]) -> tuple[Obligation, ...]:
    """Return the obligations of a call that may run."""
    out: list[Obligation] = []
    if findings and (hit := [f for f in findings if verdict.redacts(f)]):
        out.append(RedactArguments(redactions=merge(hit)))
    if verdict.scan is not None:
        out.append(verdict.scan)
    return tuple(out)


def readable(action: Action) -> dict[str, Any]:
    """Return a call's arguments as detectors read them: bytes as the text they hold, not as their base64."""
    places = frozenset(at for at, kind in action.types.items() if kind == "bytes")
    arguments: dict[str, Any] = _decoded(action.arguments, "", places) if places else action.arguments
    return arguments


def _decoded(value: Any, at: str, places: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {key: _decoded(item, f"{at}/{escape(key)}", places) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item, f"{at}/{i}", places) for i, item in enumerate(value)]
    if at not in places:
        return value
    import base64

    held = base64.b64decode(value)
    try:
        return held.decode()
    except UnicodeDecodeError:
        return held.decode("latin-1")


def settlement(detectors: Detectors, scan: ScanResult, result: Any, opaque: bool) -> Settlement:
    """Return what is to be done with a result under a scan obligation."""
    if opaque and scan.require:
        return Settlement(
            withheld_by="opaque-result",
            reason="its result is of a type that cannot be inspected, and policy redacts or blocks results; "
            "return JSON types, text, dataclasses or models",
        )
    findings = detectors.inspect(result)
    if not findings:
        return Settlement()
    if (blocked := next((f for f in findings if f.kind in kinds_of(scan.block)), None)) is not None:
        return Settlement(
            findings=findings,
            withheld_by=f"detect.{blocked.category}.result",
            reason=f"its result is withheld: it holds {blocked.kind}",
        )
    masked_kinds = kinds_of(scan.redact)
    return Settlement(findings=findings, redactions=merge(f for f in findings if f.kind in masked_kinds))


def stored(
    settings: Settings, value: Any, findings: tuple[Finding, ...], where: str = "", *, read: bool = True
) -> bytes | None:
    """Return what is stored beside a leaf: nothing, all, or all with every finding masked.

    Args:
        settings: they say which.
        value: the content; the inspected value stands in it at `where`.
        findings: what was seen, with pointers into the inspected value.
        where: a JSON pointer.
        read: detectors have read it; nobody knows what to mask in what they have not.
    """
    keep = settings.audit.content
    if keep == "none" or (keep == "redacted" and not read):
        return None
    try:
        body = msgspec.json.encode(masked(value, findings, where) if keep == "redacted" else value)
    except TapPassConfigError:
        return None  # what cannot be masked is not kept
    return body if len(body) <= settings.limits.content_bytes else None


def masked(value: Any, findings: tuple[Finding, ...], where: str) -> Any:
    """Return a value as `content = "redacted"` stores it: every finding replaced, whatever policy lets pass.

    Args:
        value: what is stored; the inspected value stands in it at `where`.
        findings: what was seen, with pointers into the inspected value.
        where: a JSON pointer.
    """
    if not findings:
        return value
    return redact_value(value, [msgspec.structs.replace(r, where=where + r.where) for r in merge(findings)])


def scanner(scan: ScanResult) -> StreamRedactor:
    """Return a reader for one streamed result."""
    detectors = detectors_for(scan.redact + scan.block + scan.flag)
    return detectors.redactor(redact=kinds_of(scan.redact), block=kinds_of(scan.block), require=scan.require)
