"""Times that others tell: never later than now, and in the form that the log has."""

from __future__ import annotations

from datetime import UTC, datetime

from tappass.wire.ids import rfc3339

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LENGTH = len("2026-01-31T09:30:00.000001Z")


def told_at(text: str, now: str) -> str | None:
    """Return an RFC 3339 time as leaves have it, or `now` if it is later; None if it is no time.

    A time without an offset counts as UTC.
    """
    try:
        told = datetime.fromisoformat(text)
        told = told.astimezone(UTC) if told.tzinfo is not None else told.replace(tzinfo=UTC)
        micros = (told - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        return None
    if micros < 0:
        return None
    at = text if len(text) == _LENGTH and text[-1] == "Z" and text[10] == "T" else rfc3339(micros * 1000)
    return min(at, now)


_MICROSECOND = datetime.resolution
