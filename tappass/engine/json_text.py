r"""JSON text as a detector should read it, piece by piece: escapes written out, and put back afterwards.

`\u0040` hides an address from a pattern and `\n` lends it a letter. So the strings inside a streamed JSON text are
shown as what they mean. Only the quote and the backslash, which would look like JSON's own, have stand-ins.
"""

from __future__ import annotations

_QUOTE, _BACKSLASH = "\ue000", "\ue001"
_MEANING = {'"': _QUOTE, "\\": _BACKSLASH, "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_CODED = {'"': _QUOTE, "\\": _BACKSLASH, _QUOTE: "\ufffd", _BACKSLASH: "\ufffd"}
_STAND_INS = str.maketrans({_QUOTE: "\ufffd", _BACKSLASH: "\ufffd"})


class Unescaper:
    """Writes escapes out; holds back at most the 12 characters of one that is not complete."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> str:
        """Take the next piece; return it with its escapes written out."""
        text, self._rest = self._rest + text.translate(_STAND_INS), ""
        read: list[str] = []
        start = 0
        while (at := text.find("\\", start)) >= 0:
            read.append(text[start:at])
            length = _length(text, at)
            if at + length > len(text):
                self._rest = text[at:]
                return "".join(read)
            read.append(_meaning(text[at : at + length]))
            start = at + length
        return "".join(read) + text[start:]

    def finish(self) -> str:
        """Return what is left of an escape that never became complete."""
        rest, self._rest = self._rest, ""
        return rest


class Escaper:
    """Puts the escapes back that JSON needs."""

    def __init__(self) -> None:
        self._inside = False

    def feed(self, text: str) -> str:
        """Take the next piece; return it as JSON text again."""
        written = []
        for place, part in enumerate(text.split('"')):
            if place:
                self._inside = not self._inside
                written.append('"')
            written.append(_escaped(part) if self._inside else part)
        return "".join(written)


def _length(text: str, at: int) -> int:
    """Return how long the escape at `at` is, or would be; a surrogate pair is one escape of two."""
    if text[at + 1 : at + 2] != "u":
        return 2
    code = _code(text[at + 2 : at + 6])
    if code is None or not 0xD800 <= code < 0xDC00:
        return 6
    after = text[at + 6 : at + 8]
    return 12 if "\\u".startswith(after) else 6


def _meaning(escape: str) -> str:
    if escape[1] != "u":
        return _MEANING.get(escape[1], escape)
    code = _code(escape[2:6])
    if code is None:
        return escape
    if len(escape) == 12:
        low = _code(escape[8:12])
        if low is None or not 0xDC00 <= low < 0xE000:
            return "\ufffd\ufffd"
        return chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00))
    if 0xD800 <= code < 0xE000:
        return "\ufffd"
    return _CODED.get(chr(code), chr(code))


def _code(digits: str) -> int | None:
    if len(digits) != 4 or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
        return None
    return int(digits, 16)


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(letter, letter) for letter in text) if _needs(text) else text


def _needs(text: str) -> bool:
    return any(letter in _ESCAPES for letter in text)


_ESCAPES = {chr(code): f"\\u{code:04x}" for code in range(0x20)} | {
    _QUOTE: '\\"',
    _BACKSLASH: "\\\\",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}
