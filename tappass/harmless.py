r"""Text of strangers made harmless to read: what would act, hide or reorder is escaped (`\x1b`, `\u202e`, `\n`)."""

from __future__ import annotations

import unicodedata

# Controls, formatting (also what reorders text), surrogates, private use, line and paragraph separators.
_HARMFUL = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
# Letters and marks by name that no font draws: fillers, joiners, variation selectors.
_INVISIBLE = {0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2800, 0x3164, 0xFFA0}
_INVISIBLE |= {*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}


def is_harmful(character: str) -> bool:
    """Tell whether a reader would not see this character as it is."""
    category = unicodedata.category(character)
    # A space of another width is taken for the usual one.
    return category in _HARMFUL or (category == "Zs" and character != " ") or ord(character) in _INVISIBLE


def escaped(character: str) -> str:
    r"""Return a character as Python writes it in ASCII."""
    return character.encode("unicode_escape").decode()


def shown(text: object, *, limit: int = 0) -> str:
    r"""Return text that a terminal or a page only shows: what they would interpret is escaped (`\x1b`, `\u202e`, `\n`).

    Args:
        text: anything; names and arguments of calls come from strangers.
        limit: cut to that many characters, with an ellipsis; 0 keeps all.
    """
    whole = str(text)
    cut = whole[:limit] if 0 < limit < len(whole) else whole
    if not (cut.isascii() and cut.isprintable()):
        cut = "".join(escaped(c) if is_harmful(c) else c for c in cut)
    return cut if len(whole) <= limit or not limit else f"{cut}…"
