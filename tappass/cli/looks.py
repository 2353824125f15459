"""What `tappass doctor` found where it looked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import msgspec

OK, NOTE, PROBLEM = "ok", "note", "problem"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at: `state` is ok, note (works, but know it) or problem; `remedy` says what to do."""

    what: str
    state: str
    found: str
    remedy: str = ""


Checks: TypeAlias = Iterator[Check]
