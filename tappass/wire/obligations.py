"""What the enforcement point must carry out if it runs a call; one it does not know blocks the call."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from tappass.wire.findings import Redaction


class RedactArguments(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="kind", tag="redact_arguments"):
    """Give the tool its arguments with these spans replaced; `where` starts with the argument's name."""

    redactions: tuple[Redaction, ...]


class ScanResult(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="kind", tag="scan_result"):
    """Show the result to the plane before anybody else sees it, and carry out what it answers.

    `redact`, `block` and `flag` list finding kinds (`EMAIL`) or categories (`pii`, `secrets`). `require` says what
    to do with a result that cannot be inspected: True withholds it, False releases it and records the fact.
    """

    redact: tuple[str, ...] = ()
    block: tuple[str, ...] = ()
    flag: tuple[str, ...] = ()
    require: bool = False


Obligation: TypeAlias = RedactArguments | ScanResult
