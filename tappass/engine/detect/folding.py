"""One byte for each code point, so that patterns run on bytes and positions need no translation."""

from __future__ import annotations

import unicodedata

_LETTER, _OTHER, _KEPT = 0xFF, 0xA4, 8192


class _Table(dict[int, int]):
    """Code point to byte, worked out on first sight."""

    def __missing__(self, code: int) -> int:
        byte = _byte(code)
        # Text from outside must not grow this without end.
        if len(self) < _KEPT:
            self[code] = byte
        return byte


def _byte(code: int) -> int:
    letter = chr(code)
    if (digit := unicodedata.decimal(letter, None)) is not None:
        return 0x30 + int(digit)
    plain = unicodedata.normalize("NFKC", letter)
    if len(plain) == 1 and (plain.isascii() or "\xa0" < plain <= "\xff"):
        return ord(plain)
    category = unicodedata.category(letter)
    if category == "Pd" or letter == "\N{MINUS SIGN}":
        return 0x2D
    # Scripts without case are often written without spaces: there they end a word rather than lengthen it.
    return _LETTER if category in ("Lu", "Ll", "Lt", "Lm", "Mn", "Mc") else _OTHER


_TABLE = _Table()


def fold(text: str) -> bytes:
    """Return one byte for each code point of a text.

    ASCII stays. Digits of any script, full-width and mathematical forms become the ASCII they stand for, wide spaces
    a space, dashes `-`. Latin-1 stays; other letters of scripts with case become one letter, the rest one symbol.
    """
    return text.encode() if text.isascii() else text.translate(_TABLE).encode("latin-1")
