"""Answers to what callers of one transaction will ask, asked for all of them at once before the first one's turn.

An answer holds until something is written that may bear on it. Two statements on one table concern different rows
where a column that both compare with `=` has another value in each; whatever cannot be read that way bears on it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeAlias

Ask: TypeAlias = tuple[str, tuple[Any, ...]]

_SELECT = re.compile(r"SELECT [\w, ]+ FROM (\w+) WHERE (.*)")
_INSERT = re.compile(r"INSERT INTO (\w+) \(([\w, ]+)\) VALUES \(([^()]+)\)(?: ON CONFLICT(?: \(([\w, ]+)\))? DO (.*))?")
_UPDATE = re.compile(r"UPDATE (\w+) SET (.*) WHERE (.*)")
_DELETE = re.compile(r"DELETE FROM (\w+) WHERE (.*)")
_EQUAL = re.compile(r"(\w+) = \?|\?")
_SET = re.compile(r"(\w+) =")


class Rows(Protocol):
    """What can be read once."""

    def fetchall(self) -> list[Any]:
        """Return every row."""


class Shape(NamedTuple):
    """Which rows a statement is about: those of a table where columns equal parameters, by their places."""

    table: str
    columns: dict[str, int]


@lru_cache(maxsize=512)
def shape(sql: str) -> Shape | None:
    """Return which rows a statement reads or writes; None where that cannot be told."""
    if (found := _INSERT.fullmatch(sql)) is not None:
        return _inserted(found)
    if (found := _UPDATE.fullmatch(sql)) is not None:
        table, changes, where = found.groups()
        columns = _equal(where, changes.count("?"))
        changed = set(_SET.findall(changes))
        return None if columns is None else Shape(table, {c: n for c, n in columns.items() if c not in changed})
    if (found := _SELECT.fullmatch(sql) or _DELETE.fullmatch(sql)) is not None:
        columns = _equal(found[2], 0)
        return None if columns is None else Shape(found[1], columns)
    return None


def _inserted(found: re.Match[str]) -> Shape:
    table, names, values, target, action = found.groups()
    place, columns = 0, {}
    for name, value in zip(names.split(", "), values.split(", "), strict=True):
        if value == "?":
            columns[name] = place
        place += value.count("?")
    if action is not None and action != "NOTHING":
        # The row that is there already has these in common with the new one, and maybe nothing else.
        columns = {name: place for name, place in columns.items() if name in (target or "").split(", ")}
    return Shape(table, columns)


def _equal(where: str, before: int) -> dict[str, int] | None:
    if " OR " in where or "SELECT" in where:
        return None
    return {found[1]: before + n for n, found in enumerate(_EQUAL.finditer(where)) if found[1]}


class Known:
    """Rows that were read already."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows
        self.rowcount = len(rows)

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""
        rows, self._rows = self._rows, []
        return rows


class Shares:
    """The rows of many questions that were asked as one: each is led by the place, from 1, of whom it answers."""

    def __init__(self, rows: Rows, count: int) -> None:
        self._rows: Rows | None = rows
        self._shares: list[list[Any]] = [[] for _ in range(count)]

    def of(self, place: int) -> Share:
        """Return the answer of one, by its place from 0."""
        return Share(self, place)

    def take(self, place: int) -> list[Any]:
        """Return the rows of one."""
        if self._rows is not None:
            rows, self._rows = self._rows.fetchall(), None
            for row in rows:
                self._shares[row[0] - 1].append(tuple(row[1:]))
        return self._shares[place]


class Share:
    """One question's part of the answers to many."""

    __slots__ = ("_place", "_shares")

    def __init__(self, shares: Shares, place: int) -> None:
        self._shares, self._place = shares, place

    def fetchall(self) -> list[Any]:
        """Return every row."""
        return self._shares.take(self._place)


class Ahead:
    """The answers of one transaction."""

    def __init__(self) -> None:
        self._asked: dict[str, dict[Ask, Rows | list[Any]]] = {}

    def wants(self, ask: Ask) -> bool:
        """Tell whether it is worth asking: nobody has, and the answer can be kept."""
        read = shape(ask[0])
        return read is not None and ask not in self._asked.get(read.table, ())

    def keep(self, ask: Ask, rows: Rows) -> None:
        """Keep what was asked; the answer may still be on its way."""
        read = shape(ask[0])
        assert read is not None, "nothing else is asked ahead"
        self._asked.setdefault(read.table, {})[ask] = rows

    def answer(self, sql: str, params: Sequence[Any]) -> Known | None:
        """Return a question's answer, if it was asked and still holds."""
        if not self._asked or (read := shape(sql)) is None:
            return None
        kept, ask = self._asked.get(read.table), (sql, tuple(params))
        if kept is None or (rows := kept.get(ask)) is None:
            return None
        if not isinstance(rows, list):
            rows = kept[ask] = rows.fetchall()
        return Known(list(rows))

    def written(self, sql: str, params: Sequence[Any]) -> None:
        """Forget the answers that a statement may bear on."""
        if not self._asked:
            return
        write = shape(sql)
        if write is None:
            self._asked.clear()
        elif (kept := self._asked.get(write.table)) is not None:
            for ask in [ask for ask in kept if not _apart(ask, write, params)]:
                del kept[ask]


def _apart(ask: Ask, write: Shape, params: Sequence[Any]) -> bool:
    read = shape(ask[0])
    assert read is not None, "nothing else is asked ahead"
    return any(
        name in read.columns and ask[1][read.columns[name]] != params[place] for name, place in write.columns.items()
    )
