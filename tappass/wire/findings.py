"""What a detector saw, and what was put in its place; never the matched text."""

from __future__ import annotations

import msgspec


class Finding(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One match of one detector.

    `start` and `end` count Unicode code points in the text at `where`, a JSON pointer (RFC 6901) into the
    inspected value ("" for a plain text; a pointer that ends in `~key` means the key itself, not its value).
    `score` is the confidence in per cent.
    """

    kind: str
    start: int
    end: int
    where: str = ""
    score: int = 100
    detector: str = ""
    category: str = ""


class Redaction(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One span that was replaced; positions as in `Finding`, before any replacement was made."""

    kind: str
    start: int
    end: int
    replacement: str
    where: str = ""


def kinds_in(redactions: tuple[Redaction, ...]) -> tuple[str, ...]:
    """Return the kinds that were replaced, each once, sorted."""
    return tuple(sorted({redaction.kind for redaction in redactions})) if redactions else ()
