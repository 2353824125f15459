"""What people say for the record: checked, and put beside the log."""

from __future__ import annotations

from tappass.errors import TapPassConfigError
from tappass.wire.codec import canonical

_LONGEST = 4000


def worded(text: str, what: str, *, longest: int = _LONGEST) -> str:
    """Return a text without white space around it.

    Raises:
        TapPassConfigError: nothing is left of it, or it is too long, or it is no text that can be stored.
    """
    words = text.strip()
    if not words:
        raise TapPassConfigError(f"{what} is missing, or empty")
    if len(words) > longest:
        raise TapPassConfigError(f"{what} has {len(words)} characters; at most {longest} are kept")
    try:
        words.encode()
    except UnicodeEncodeError:
        raise TapPassConfigError(f"{what} is not valid Unicode text") from None
    if "\x00" in words:
        raise TapPassConfigError(f"{what} holds a NUL character, which no database keeps as text")
    return words


def reasoned(reason: str) -> bytes:
    """Return a reason as it is stored beside its leaf.

    Raises:
        TapPassConfigError: none is given.
    """
    return canonical({"reason": worded(reason, "the reason")})
