"""Telephone numbers: candidates by their shape, confirmed by the numbering plans in `phonenumbers`."""

from __future__ import annotations

from typing import Any

from tappass.engine.detect.detector import PII, PatternDetector, Span, near, pattern, touches_digit

_WORDS = r"phone|telephone|tel|call|calling|dial|mobile|cell|cellphone|fax|sms|whatsapp|ring|hotline"
_AMERICAN = r"(?:(?:\+|00)?1[ .-]?)?(?:\([0-9]{3}\) ?|[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}"
_DATE = r"(?:19|20)[0-9]{2}[-./][0-9]{1,2}[-./][0-9]{1,2}|[0-9]{1,2}[-./][0-9]{1,2}[-./](?:19|20)[0-9]{2}"


def _phone(view: bytes, head: Any) -> Span | None:
    start, end = head.span()
    if end - start > 40 or touches_digit(view, start, end):
        return None
    written = head.group()
    main = pattern("[^ex]*[0-9]").match(written).group()
    digits = sum(48 <= byte <= 57 for byte in main)
    if not 7 <= digits <= 15:
        return None
    score = _score(view, start, main, digits)
    return (start, end, score) if score else None


def _score(view: bytes, start: int, main: bytes, digits: int) -> int:
    abroad = main[:1] == b"+" or main[:2] == b"00"
    if abroad and _valid("+" + main.decode().lstrip("+0"), None):
        return 100
    if pattern(_AMERICAN).fullmatch(main) is not None:
        return 100 if _valid(main.decode(), "US") else 70
    told = near(view, start, rf"(?:{_WORDS})(?:$|[^a-z].*)", reach=40)
    return 60 if told and digits <= 13 and pattern(_DATE).fullmatch(main) is None else 0


def _valid(number: str, region: str | None) -> bool:
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
    head=r"(?:\+|\()?[0-9](?:[ ().\-/]{0,2}[0-9])*(?:(?: ?x| ?ext\.?) ?[0-9]+)?",
    read=_phone,
    tail=r"[+(][0-9 ().\-/]*|[+(]?[0-9][0-9 ().\-/]*(?: ?e?x?t?\.? ?[0-9]*)?",
)

ALL = (PHONE,)
