"""How a call ended, and what the plane says about its result."""

from __future__ import annotations

from typing import Any

import msgspec

from tappass.wire.chat import Usage
from tappass.wire.findings import Finding, Redaction
from tappass.wire.obligations import ScanResult

COMPLETED, FAILED, CANCELLED, ABANDONED = "completed", "failed", "cancelled", "abandoned"


class Ending(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The close of one call's record.

    `status` is completed, failed, cancelled or abandoned. `result` is the result in JSON types (`UNSET` where there
    is none to show); `opaque` says that part of it could not be put that way. `scan` echoes the obligation that
    the result is under. `findings` is what the enforcement point itself saw while streaming, `redacted` the kinds
    that it replaced there. `ran` is False where it is certain that nothing began.
    """

    session_id: str
    task_id: str
    status: str
    duration_us: int
    error_type: str = ""
    result: Any | msgspec.UnsetType = msgspec.UNSET
    opaque: bool = False
    scan: ScanResult | None = None
    findings: tuple[Finding, ...] = ()
    redacted: tuple[str, ...] = ()
    withheld: bool = False
    model: str = ""
    usage: Usage | None = None
    ran: bool = True


class Settlement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the plane says of a result: what to replace in it, and whether it may be seen at all.

    `withheld_by` names the kind or rule that withholds the whole result; "" releases it.
    """

    findings: tuple[Finding, ...] = ()
    redactions: tuple[Redaction, ...] = ()
    withheld_by: str = ""
    reason: str = ""
