"""Reading a streamed result where the plane is remote: here, with the same detectors, or not at all."""

from __future__ import annotations

from typing import Any

from tappass.enforcement.port import Scanner
from tappass.errors import PolicyBlockError
from tappass.extras import missing
from tappass.wire.endings import Settlement
from tappass.wire.findings import Finding, Redaction
from tappass.wire.obligations import ScanResult

WITHHELD_BY = "scan-unavailable"


def scanner_for(scan: ScanResult) -> Scanner:
    """Return a reader for one streamed result; without the detectors installed, one that withholds it."""
    try:
        from tappass.engine import inspection
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "tappass":
            raise
        return Withholding()
    return inspection.scanner(scan)


class Withholding:
    """Shows nothing of a stream that policy wants inspected, where nobody can."""

    findings: tuple[Finding, ...] = ()
    redactions: tuple[Redaction, ...] = ()
    shown = 0

    def feed(self, text: str) -> str:
        """Refuse.

        Raises:
            PolicyBlockError: always.
        """
        raise PolicyBlockError(reason=_why(), blocked_by=WITHHELD_BY)

    def finish(self) -> str:
        """Return nothing: nothing was held back."""
        return ""

    def inspect(self, value: Any, *, opaque: bool) -> Settlement:
        """Withhold the item."""
        return Settlement(withheld_by=WITHHELD_BY, reason=_why())


def _why() -> str:
    return f"its stream is withheld: {missing('embedded', 'inspecting a stream')}"
