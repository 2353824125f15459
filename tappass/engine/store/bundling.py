"""Statements that differ in their parameters alone, as one statement on PostgreSQL with an array for each of them.

A statement costs there what ten rows of it do: being sent, looked up, bound, answered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

Params: TypeAlias = Sequence[Any]
Bundle: TypeAlias = tuple[str, tuple[list[Any], ...]]

_TYPES = {str: "text", int: "int8", bytes: "bytea"}
_ONE_ROW = re.compile(r"(INSERT INTO \w+ \([\w, ]+\)) VALUES \(\?(?:, \?)*\)( ON CONFLICT .*)?")


def selected(sql: str, asked: Sequence[Params]) -> Bundle | None:
    """Return one SELECT for many, each row led by the place, from 1, of whom it answers; None where that cannot be."""
    kinds = None if " ORDER BY " in sql or " LIMIT " in sql else _kinds(asked)
    return None if kinds is None else (_select(sql, kinds), _columns(asked))


def inserted(sql: str, rows: Sequence[Params]) -> Bundle | None:
    """Return one INSERT for many of a row each; None where that cannot be."""
    kinds = _kinds(rows) if _ONE_ROW.fullmatch(sql) else None
    return None if kinds is None else (_insert(sql, kinds), _columns(rows))


def _columns(rows: Sequence[Params]) -> tuple[list[Any], ...]:
    return tuple(map(list, zip(*rows, strict=True)))


def _kinds(rows: Sequence[Params]) -> tuple[str, ...] | None:
    """Return the types of columns; None if one cannot be told, as that of nothing but NULL."""
    kinds = [_kind(column) for column in zip(*rows, strict=True)]
    return tuple(kind for kind in kinds if kind) if kinds and all(kinds) else None


def _kind(column: tuple[Any, ...]) -> str | None:
    found = {type(value) for value in column if value is not None}
    return _TYPES.get(found.pop()) if len(found) == 1 else None


@lru_cache(maxsize=256)
def _select(sql: str, kinds: tuple[str, ...]) -> str:
    names = [f"a{place}" for place in range(len(kinds))]
    first, *others = sql.replace("%", "%%").split("?")
    one = first + "".join(f"asked.{name}{rest}" for name, rest in zip(names, others, strict=True))
    columns = ", ".join([*names, "place"])
    return f"SELECT place, found.* FROM {_unnest(kinds)} WITH ORDINALITY AS asked({columns}), LATERAL ({one}) AS found"  # noqa: S608 - a statement of ours


@lru_cache(maxsize=256)
def _insert(sql: str, kinds: tuple[str, ...]) -> str:
    found = _ONE_ROW.fullmatch(sql)
    assert found is not None, "only such statements come here"
    into, conflict = found.groups()
    return f"{into} SELECT * FROM {_unnest(kinds)}{conflict or ''}"  # noqa: S608 - a statement of ours


def _unnest(kinds: tuple[str, ...]) -> str:
    return f"unnest({', '.join(f'%b::{kind}[]' for kind in kinds)})"
