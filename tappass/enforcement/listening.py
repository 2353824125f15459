"""Whether a suspended generator reads what is sent into it, so that nothing may be pulled ahead of the sender."""

from __future__ import annotations

import dis
from functools import lru_cache
from types import CodeType
from typing import Any

_BETWEEN = ("YIELD_VALUE", "RESUME", "CACHE", "NOP", "EXTENDED_ARG")


def listens(source: Any) -> bool:
    """Tell whether the `yield` that a source stands at has its value read; in doubt it has.

    A `yield` that stands as a statement reads nothing, and `yield from` reads what the inner source does. What is no
    generator written in Python listens if it has a `send`.
    """
    while (inner := getattr(source, "gi_yieldfrom", None)) is not None:
        source = inner
    frame = getattr(source, "gi_frame", None) or getattr(source, "ag_frame", None)
    if frame is None:
        return hasattr(source, "send") or hasattr(source, "asend")
    return _reads(frame.f_code, frame.f_lasti)


@lru_cache(maxsize=256)
def _reads(code: CodeType, at: int) -> bool:
    following = (i.opname for i in dis.get_instructions(code) if i.offset >= at and i.opname not in _BETWEEN)
    return next(following, "") != "POP_TOP"
