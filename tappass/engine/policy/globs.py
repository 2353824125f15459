"""Globs of `*` and `?` over whole names, case-sensitive, in time proportional to glob times name."""

from __future__ import annotations

LONGEST = 200


def matches(glob: str, name: str) -> bool:
    """Return whether a glob matches the whole of a name: `*` any run of characters, `?` any one."""
    pieces = glob.split("*")
    if len(pieces) == 1:
        return len(glob) == len(name) and _at(glob, name, 0)
    first, *middle, last = pieces
    end = len(name) - len(last)
    if end < len(first) or not _at(first, name, 0) or not _at(last, name, end):
        return False
    at = len(first)
    # Taking each piece at its first place leaves most room for those after it, so nothing is tried twice.
    for piece in middle:
        at = _find(piece, name, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def is_exact(glob: str) -> bool:
    """Return whether a glob matches one name only."""
    return "*" not in glob and "?" not in glob


def _at(piece: str, name: str, at: int) -> bool:
    if "?" not in piece:
        return name.startswith(piece, at)
    return len(name) - at >= len(piece) and all(p in ("?", n) for p, n in zip(piece, name[at:], strict=False))


def _find(piece: str, name: str, at: int, end: int) -> int:
    if "?" not in piece:
        return name.find(piece, at, end)
    return next((i for i in range(at, end - len(piece) + 1) if _at(piece, name, i)), -1)
