"""What findings oblige to: redacted arguments before a call, a redacted or withheld result after it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from tappass.enforcement.redaction import StreamRedactor, merge, redact_value
from tappass.engine.detect.detectors import Detectors
from tappass.engine.policy.facts import Verdict
from tappass.wire.endings import Settlement
from tappass.wire.findings import Finding, Redaction
from tappass.wire.obligations import Obligation, RedactArguments, ScanResult


class Inspection:
    """Applies what a verdict says about finding kinds to what the detectors saw."""

    def __init__(self, detectors: Detectors) -> None:
        self._detectors = detectors

    def obligations(self, verdict: Verdict, findings: tuple[Finding, ...]) -> tuple[Obligation, ...]:
        """Return the obligations of a call that may run."""
        out: list[Obligation] = []
        if findings and (hit := [f for f in findings if verdict.redacts(f)]):
            out.append(RedactArguments(redactions=merge(hit)))
        if verdict.scan is not None:
            out.append(verdict.scan)
        return tuple(out)

    def settlement(self, scan: ScanResult, result: Any, opaque: bool) -> Settlement:
        """Return what is to be done with a result under a scan obligation."""
        if opaque:
            if not scan.require:
                return Settlement()
            return Settlement(
                withheld_by="result-not-inspectable",
                reason="its result is of a type that cannot be inspected, and policy redacts or blocks results; "
                "return JSON types, text, dataclasses or models",
            )
        findings = self._detectors.inspect(result)
        if not findings:
            return Settlement()
        blocked = first(findings, self._detectors.expand(scan.block))
        if blocked is not None:
            return Settlement(
                findings=findings,
                withheld_by=f"detect.{blocked.category}.result",
                reason=f"its result is withheld: it holds {blocked.kind}",
            )
        masked_kinds = self._detectors.expand(scan.redact)
        return Settlement(findings=findings, redactions=merge([f for f in findings if f.kind in masked_kinds]))


def first(findings: tuple[Finding, ...], kinds: Collection[str]) -> Finding | None:
    """Return the first finding of these kinds."""
    return next((f for f in findings if f.kind in kinds), None)


def masked(value: Any, findings: tuple[Finding, ...], where: str = "") -> Any:
    """Return a value as it is stored under `content = "redacted"`: every finding replaced, whatever policy lets pass."""
    if not findings:
        return value
    prefix = where or "/arguments"
    placed: list[Redaction] = [msgspec.structs.replace(r, where=prefix + r.where) for r in merge(findings)]
    return redact_value(value, placed)


class ResultScanner:
    """Reads one streamed result: text through the stream redactor, other items whole."""

    def __init__(self, detectors: Detectors, scan: ScanResult) -> None:
        self._inspection = Inspection(detectors)
        self._detectors = detectors
        self._scan = scan
        self._done: tuple[tuple[Finding, ...], tuple[Redaction, ...]] = ((), ())
        self._text = self._redactor()

    def _redactor(self) -> StreamRedactor:
        return self._detectors.stream(redact=self._scan.redact, block=self._scan.block)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far."""
        return self._done[0] + self._text.findings

    @property
    def redactions(self) -> tuple[Redaction, ...]:
        """What was replaced so far."""
        return self._done[1] + self._text.redactions

    def feed(self, text: str) -> str:
        """Take the next piece of text; return what is safe to show."""
        return self._text.feed(text)

    def finish(self) -> str:
        """Return what was held back, redacted; the next text starts anew."""
        rest = self._text.finish()
        self._done = (self.findings, self.redactions)
        self._text = self._redactor()
        return rest

    def inspect(self, value: Any, *, opaque: bool) -> Settlement:
        """Say what is to be replaced in one item that is not text, or that it is withheld."""
        settlement = self._inspection.settlement(self._scan, value, opaque)
        self._done = (self._done[0] + settlement.findings, self._done[1] + settlement.redactions)
        return settlement
