"""Ids and times: the only place that reads the clock or asks for randomness."""

from __future__ import annotations

import os
import time
from typing import Protocol


class Clock(Protocol):
    """What time it is; tests bring their own."""

    def time_ns(self) -> int:
        """Return UTC as nanoseconds since the epoch."""
        ...

    def monotonic_ns(self) -> int:
        """Return nanoseconds from an arbitrary start, never going back."""
        ...


class SystemClock:
    """The machine's clock."""

    time_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)


class Ids(Protocol):
    """Where new ids come from; tests bring their own."""

    def new(self, prefix: str) -> str:
        """Return a fresh id with that prefix, e.g. `tsk_0193…`."""
        ...


class UuidIds:
    """UUIDv7 in hex (RFC 9562, section 5.7) behind a prefix: unique, and sorted by time."""

    def new(self, prefix: str) -> str:
        """Return `<prefix>_<32 hex digits>`."""
        return f"{prefix}_{uuid7_hex()}"


def uuid7_hex() -> str:
    """Return a UUIDv7 as 32 hex digits: 48 bits of milliseconds, 74 of randomness."""
    random = int.from_bytes(os.urandom(10), "big")
    value = (time.time_ns() // 1_000_000) << 80 | 7 << 76 | (random >> 68) << 64
    value |= 2 << 62 | random & 0x3FFF_FFFF_FFFF_FFFF
    return f"{value:032x}"


_second: tuple[int, str] = (0, "")


def rfc3339(time_ns: int) -> str:
    """Return a UTC time as RFC 3339 with microseconds: `2026-01-31T09:30:00.000001Z`."""
    global _second
    seconds, rest = divmod(time_ns, 1_000_000_000)
    known, text = _second
    if known != seconds:
        # Formatting a second is dear, and calls come many to a second. One assignment, so threads need no lock.
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        _second = (seconds, text)
    return f"{text}.{rest // 1000:06d}Z"


SYSTEM_CLOCK = SystemClock()
UUID_IDS = UuidIds()
