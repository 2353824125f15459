"""Where in a file one character of a YAML scalar stands, however the scalar is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# How many characters an escape takes in a double-quoted scalar, if not two.
_ESCAPES = {"x": 4, "u": 6, "U": 10}
_SPACE_ESCAPES = frozenset(" \t\n\rntNLP_vf0")


@dataclass(frozen=True, slots=True)
class Scalar:
    """One scalar: its value, and the text of its file from where it begins to where it ends.

    Attributes:
        line, column: where it begins, from 1.
        raw: as it is written, quotes and block indicator included.
        style: None (plain), `'`, `"`, `|` or `>`.
    """

    value: str
    file: str
    line: int
    column: int
    raw: str
    style: str | None

    def place(self, line: int, column: int) -> tuple[int, int]:
        """Return line and column in the file of a line and column (from 1) in the value.

        What is not white space stands in the same order in both, so the n-th such character is the n-th in the other.
        """
        lines = self.value.split("\n")
        before = "\n".join([*lines[: line - 1], lines[line - 1][: column - 1] if line <= len(lines) else ""])
        wanted = sum(not letter.isspace() for letter in before)
        last = (self.line, self.column)
        for position, place in enumerate(self._written()):
            if position == wanted:
                return place
            last = (place[0], place[1] + 1)
        return last

    def _written(self) -> Iterator[tuple[int, int]]:
        """Yield the place of every character of the value that is not white space."""
        at, end = 0, len(self.raw)
        if self.style in ("'", '"'):
            at, end = 1, end - 1
        elif self.style in ("|", ">"):
            at = self.raw.find("\n") + 1
        line, column = self.line, self.column + at
        if self.style in ("|", ">"):
            line, column = self.line + 1, 1
        while at < end:
            letter, width = self.raw[at], self._width(at)
            if letter == "\n":
                line, column = line + 1, 0
            elif not self._is_space(at, width):
                yield line, column
            at += width
            column += width

    def _width(self, at: int) -> int:
        pair = self.raw[at : at + 2]
        if self.style == "'" and pair == "''":
            return 2
        if self.style == '"' and pair[:1] == "\\":
            return 1 if pair == "\\\n" else _ESCAPES.get(pair[1:], 2)
        return 1

    def _is_space(self, at: int, width: int) -> bool:
        if self.style == '"' and self.raw[at] == "\\":
            return width == 1 or (width == 2 and self.raw[at + 1] in _SPACE_ESCAPES)
        return self.raw[at].isspace()
