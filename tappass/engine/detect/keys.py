"""Secrets with a structure of their own: PEM private keys and JSON Web Tokens."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from tappass.engine.detect.detector import LOOKAHEAD, SECRETS, PatternDetector, Span, cut_off, follows_word, pattern

LONGEST = 16_384

_LABEL = "[0-9A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
_BEGIN, _END = f"-----BEGIN {_LABEL}", f"-----END {_LABEL}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PemDetector(PatternDetector):
    """Private keys in PEM armour (RFC 7468), of any label.

    A block without an end is taken up to `max_length`, or to the end of the text: what was cut off is still a key.
    """

    def spans(self, view: bytes) -> Iterator[Span]:
        """Yield the blocks in folded bytes."""
        ends = [match.end() for match in pattern(_END).finditer(view)]
        for begin in pattern(_BEGIN).finditer(view):
            start = begin.start()
            limit = min(len(view), start + self.max_length)
            at = bisect_left(ends, begin.end())
            yield start, min(ends[at], limit) if at < len(ends) else limit, 100

    def open_at(self, view: bytes) -> int:
        """Return where the earliest block begins that has no end yet."""
        start = cut_off(view, self.tail, self.max_length)
        floor = max(0, len(view) - self.max_length - LOOKAHEAD)
        if (begin := pattern(_BEGIN).search(view, floor)) is None:
            return start
        last = max((match.end() for match in pattern(_END).finditer(view)), default=0)
        begin = pattern(_BEGIN).search(view, max(last, floor))
        return min(start, begin.start()) if begin is not None else start


PRIVATE_KEY = PemDetector(
    kind="PRIVATE_KEY",
    category=SECRETS,
    max_length=LONGEST,
    anchor="-----BEGIN",
    head=_BEGIN,
    read=lambda view, match: None,
    tail=r"-[0-9A-Z -]*",
)


def _jwt(view: bytes, at: Any) -> Span | None:
    start = at.start()
    before = view[start - 1 : start] if start else b""
    if follows_word(view, start) or before in (b"-", b"_"):
        return None
    token = pattern(r"(eyJ[0-9A-Za-z_-]+)\.[0-9A-Za-z_-]+\.[0-9A-Za-z_-]*").match(view, start, start + LONGEST)
    return (start, token.end(), 100) if token is not None and _is_header(token.group(1)) else None


def _is_header(part: bytes) -> bool:
    """Say whether a part is a JOSE header: JSON with an `alg` (RFC 7515, section 4.1.1)."""
    try:
        header = msgspec.json.decode(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header


JWT = PatternDetector(
    kind="JWT",
    category=SECRETS,
    max_length=LONGEST,
    anchor="eyJ",
    head="eyJ",
    read=_jwt,
    tail="[0-9A-Za-z_-][0-9A-Za-z_.-]*",
)

ALL = (PRIVATE_KEY, JWT)
