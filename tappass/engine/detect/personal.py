"""Personal data that a checksum or a parser confirms: mail, card, IBAN, social security number, IP address."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any

from tappass import forking
from tappass.engine.detect.detector import PII, PatternDetector, Span, follows_word, near, pattern, touches_digit

_WORD = r"0-9A-Za-z\xaa\xb5\xba\xc0-\xd6\xd8-\xf6\xf8-\xff"
# RFC 5322 also allows = ? / & and more, which in practice part an address from what stands before it.
_LOCAL = rf"[{_WORD}.!#$%'*+^_~-]"
_DOMAIN = rf"(?:[{_WORD}](?:[{_WORD}-]*[{_WORD}])?\.)+(?:xn--[0-9a-zA-Z-]+|[A-Za-z\xc0-\xd6\xd8-\xf6\xf8-\xff]{{2,63}})"


def _email(view: bytes, at: Any) -> Span | None:
    sign = at.start()
    # RFC 5321, section 4.5.3.1: at most 64 octets before the sign, 255 after it.
    before = view[max(0, sign - 64) : sign]
    local = pattern(rf"{_LOCAL}+\z").search(before)
    if local is None or (domain := pattern(_DOMAIN).match(view, sign + 1, sign + 256)) is None:
        return None
    word = local.group().lstrip(b".'*!^#$%~")
    return (sign - len(word), domain.end(), 100) if word else None


EMAIL = PatternDetector(
    kind="EMAIL",
    category=PII,
    max_length=320,
    anchor="@",
    head="@",
    read=_email,
    tail=rf"{_LOCAL}+(?:@[{_WORD}.-]*)?|{_LOCAL}*@[{_WORD}.-]*",
)


def luhn(digits: bytes) -> bool:
    """Say whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    double = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
    return (sum(d - 48 for d in digits[-1::-2]) + sum(double[d - 48] for d in digits[-2::-2])) % 10 == 0


# First four digits, from and to, with the lengths that issuers give out.
_ISSUERS = (
    (4000, 4999, (13, 16, 19)),
    (5100, 5599, (16,)),
    (2221, 2720, (16,)),
    (3400, 3499, (15,)),
    (3700, 3799, (15,)),
    (3000, 3059, (14, 16)),
    (3095, 3095, (14, 16)),
    (3600, 3699, (14, 16)),
    (3800, 3999, (14, 16)),
    (3528, 3589, (16, 17, 18, 19)),
    (1800, 1800, (15,)),
    (2131, 2131, (15,)),
    (6011, 6011, (16, 17, 18, 19)),
    (6440, 6599, (16, 17, 18, 19)),
    (6200, 6299, (16, 17, 18, 19)),
    (5000, 5099, (12, 13, 14, 15, 16, 17, 18, 19)),
    (5600, 6999, (12, 13, 14, 15, 16, 17, 18, 19)),
)


def _issued(digits: bytes) -> bool:
    first = int(digits[:4])
    return any(low <= first <= high and len(digits) in lengths for low, high, lengths in _ISSUERS)


_GROUPED = (
    r"[0-9]{4}(?:[ -][0-9]{4}){3}[ -]?[0-9]{3}",
    r"[0-9]{4}(?:[ -][0-9]{4}){3}",
    r"[0-9]{4}[ -][0-9]{6}[ -][0-9]{4,5}",
)


def _card(view: bytes, head: Any) -> Span | None:
    start = head.start()
    if touches_digit(view, start, len(view)):
        return None
    run = head.group(1) or head.group()
    if len(run) > 4:
        return (start, start + len(run), 100) if _is_card(view, start + len(run), run) else None
    for shape in _GROUPED:
        match = pattern(shape).match(view, start, start + 28)
        if match is not None and _is_card(view, match.end(), match.group().replace(b" ", b"").replace(b"-", b"")):
            return start, match.end(), 100
    return None


def _is_card(view: bytes, end: int, digits: bytes) -> bool:
    return not view[end : end + 1].isalnum() and _issued(digits) and luhn(digits)


PAYMENT_CARD = PatternDetector(
    kind="PAYMENT_CARD",
    category=PII,
    max_length=24,
    anchor=r"[0-9](?:[ -]?[0-9]){11}",
    head=r"([0-9]{4,})[ -][0-9]{4,6}[ -][0-9]|[0-9]{12,}",
    read=_card,
    tail=r"[0-9]+(?:[ -][0-9]+)*[ -]?",
    resume=1,
)


@lru_cache(maxsize=512)
def _iban_length(country: str) -> int:
    with forking.unforked:
        from stdnum import numdb

    parts = [info for _, info in numdb.get("iban").info(country) if "bban" in info]
    return 4 + sum(int(size.split("!")[0]) for size in _sizes(parts[0]["bban"])) if parts else 0


def _sizes(structure: str) -> list[str]:
    for letter in "nac":
        structure = structure.replace(letter, " ")
    return structure.split()


def _iban(view: bytes, head: Any) -> Span | None:
    start = head.start()
    if follows_word(view, start) or not (length := _iban_length(view[start : start + 2].decode().upper())):
        return None
    groups = (length - 1) // 4
    spaced = rf"(?:[0-9A-Za-z]{{4}}[ -]){{{groups}}}[0-9A-Za-z]{{{length - 4 * groups}}}"
    for shape in (rf"[0-9A-Za-z]{{{length}}}", spaced):
        match = pattern(shape).match(view, start, start + 46)
        if match is not None and not view[match.end() : match.end() + 1].isalnum() and _checked(match.group()):
            return start, match.end(), 100
    return None


def _checked(written: bytes) -> bool:
    with forking.unforked:
        from stdnum import iban

    return bool(iban.is_valid(written.decode(), check_country=False))


IBAN = PatternDetector(
    kind="IBAN",
    category=PII,
    max_length=46,
    anchor=r"[A-Za-z]{2}[0-9]{2}[ -]?[0-9A-Za-z]{4}",
    head=r"([A-Za-z]{2})[0-9]{2}[ -]?[0-9A-Za-z]{4}",
    read=_iban,
    tail=r"[A-Za-z]{1,2}|[A-Za-z]{2}[0-9]{1,2}(?:[ -]?[0-9A-Za-z])*[ -]?",
    resume=1,
)


def _ssn(view: bytes, head: Any) -> Span | None:
    start, end = head.span()
    if end - start > 11 or touches_digit(view, start, end) or _joined(view, start, end):
        return None
    written = head.group()
    if len(written) == 10:
        return None
    area, group, serial = written[:3], written[3:-4].strip(b" -"), written[-4:]
    # Never given out: Social Security Administration, POMS RM 10201.035.
    if area in (b"000", b"666") or area[:1] == b"9" or group == b"00" or serial == b"0000":
        return None
    if written.count(b"-") == 2 or near(view, start, r"ssns?(?:$|[^a-z])|social[ -]security|soc\.? ?sec"):
        return start, end, 100
    return None


def _joined(view: bytes, start: int, end: int) -> bool:
    before, after = view[max(0, start - 2) : start], view[end : end + 2]
    return (before[1:] == b"-" and before[:1].isdigit()) or (after[:1] == b"-" and after[1:].isdigit())


US_SSN = PatternDetector(
    kind="US_SSN",
    category=PII,
    max_length=11,
    anchor=r"[0-9]{3}[ -]?[0-9]{2}[ -]?[0-9]{4}",
    head=r"([0-9]{3})(?:-[0-9]{2}-| [0-9]{2} )[0-9]{4}|[0-9]{9,}",
    read=_ssn,
    tail=r"[0-9]+(?:[ -][0-9]+)*[ -]?",
    resume=1,
)


def _address(view: bytes, head: Any) -> Span | None:
    start, end = head.span()
    if end - start > 48 or view[end : end + 1].isalnum():
        return None
    text = head.group()
    # In `address:2001:db8::1` the colon after the word belongs to no address.
    if b":" in text and (follows_word(view, start) or (text[:1] == b":" and text[:2] != b"::")):
        start += text.index(b":") + 1
        text = view[start:end]
    text = text.rstrip(b".")
    text = text if text.endswith(b"::") else text.rstrip(b":")
    if follows_word(view, start) or (start and view[start - 1] in b"-_.") or not _personal(text):
        return None
    return start, start + len(text), 100


def _personal(text: bytes) -> bool:
    try:
        address = ipaddress.ip_address(text.decode())
    except ValueError:
        return False
    # `a::b` and `dead::beef` are addresses to the parser, and names in many languages.
    if address.version == 6 and (text.count(b":") < 3 and not any(len(p) > 2 for p in text.split(b":"))):
        return False
    digit = any(48 <= byte <= 57 for byte in text)
    return digit and not address.is_loopback and not address.is_unspecified


IP_ADDRESS = PatternDetector(
    kind="IP_ADDRESS",
    category=PII,
    max_length=48,
    anchor=r"[0-9]\.[0-9]{1,3}\.[0-9]|:[0-9A-Fa-f]{0,4}:",
    head=r"[0-9A-Fa-f:]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*|[0-9]+\.[0-9]+\.[0-9]+\.[0-9.]*[0-9]",
    read=_address,
    tail=r"[0-9A-Fa-f:.]+",
)

ALL = (EMAIL, PAYMENT_CARD, IBAN, US_SSN, IP_ADDRESS)
