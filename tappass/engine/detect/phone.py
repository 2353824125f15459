"""Telephone numbers: candidates by their shape, confirmed by the numbering plans in `phonenumbers`."""

from __future__ import annotations

from typing import Any

from tappass import forking
from tappass.engine.detect.detector import LOOKAHEAD, PII, PatternDetector, Span, near, pattern, touches_digit

_WORDS = (
    "phone|telephone|tel|call|calling|calls|dial|mobile|cell|cellphone|fax|sms|whatsapp|ring|hotline|"
    "answer|answering|reach|contact"
)
_LINES = r"(?i)[ -](?:office|fax|home|mobile|cell)"
_AMERICAN = r"(?:(?:\+|00)?1[ .-]?)?(?:\([0-9]{3}\) ?|[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}"
_BRACKETED = r"\([0-9]{2,4}\) ?[0-9]{3,4}[ -][0-9]{3,5}"
_TRUNK = r"0[1-9][0-9]{0,3}[ /-][0-9]{2,4}(?:[ -]?[0-9]{2,4})+"
# A date, or a social security number.
_OTHER = (
    r"[0-9]{3}-[0-9]{2}-[0-9]{4}|"
    r"(?:19|20)[0-9]{2}[-./][0-9]{1,2}[-./][0-9]{1,2}.*|[0-9]{1,2}[-./][0-9]{1,2}[-./](?:19|20)[0-9]{2}.*"
)


def _phone(view: bytes, head: Any) -> Span | None:
    start, end = head.span()
    if end - start > 40 or touches_digit(view, start, end):
        return None
    main = head.group(1)
    digits = sum(48 <= byte <= 57 for byte in main)
    if not 7 <= digits <= 15:
        return None
    score = _score(view, start, end, main, digits)
    return (start, end, score) if score else None


def _score(view: bytes, start: int, end: int, main: bytes, digits: int) -> int:
    """Return how sure it is, in per cent: 100 a number of its plan, 70 an American shape, less for others; 0 none."""
    if (main[:1] == b"+" or main[:2] == b"00") and _valid("+" + main.decode().lstrip("+0"), None):
        return 100
    if pattern(_AMERICAN).fullmatch(main) is not None:
        return 100 if _valid(main.decode(), "US") else 70
    if digits > 13 or pattern(_OTHER).fullmatch(main) is not None or (start and view[start - 1] in b"-/#._"):
        return 0
    if near(view, start, rf"(?:{_WORDS})(?:$|[^a-z].*)", reach=40) or pattern(_LINES).match(view, end, end + LOOKAHEAD):
        return 60
    shaped = pattern(_BRACKETED).fullmatch(main) or (9 <= digits <= 11 and pattern(_TRUNK).fullmatch(main))
    return 50 if shaped else 0


def _valid(number: str, region: str | None) -> bool:
    # It imports what it knows of a region when that is first asked for.
    with forking.unforked:
        # Takes 60 ms to import, and most runs never see a candidate.
        import phonenumbers

        try:
            return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
        except phonenumbers.NumberParseException:
            return False


PHONE = PatternDetector(
    kind="PHONE",
    category=PII,
    max_length=40,
    anchor=r"[0-9](?:[ ().\-/]{0,2}[0-9]){6}",
    head=r"((?:\+|\()?[0-9](?:[ ().\-/]{0,2}[0-9]){6,})(?: ?(?:x|ext\.?) ?[0-9]+)?",
    read=_phone,
    tail=r"[+(][0-9 ().\-/]*|[+(]?[0-9][0-9 ().\-/]*(?: ?e?x?t?\.? ?[0-9]*|[ -]?[A-Za-z]{1,6})?",
)

ALL = (PHONE,)
