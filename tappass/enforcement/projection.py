"""Values as policy sees them: JSON types, by a documented projection, or refused.

| Python                                   | projected to                     | type recorded |
| ---------------------------------------- | -------------------------------- | ------------- |
| None, bool, str, int, finite float       | itself                           |               |
| dict with text keys, list                | itself                           |               |
| tuple; set, frozenset                    | list; list sorted by its bytes   | tuple; set    |
| Decimal that a double names exactly      | number                           | decimal       |
| datetime, date, time (ISO 8601)          | text                             | datetime, …   |
| timedelta (seconds)                      | number                           | timedelta     |
| UUID, Path                               | text                             | uuid, path    |
| bytes, bytearray (base64)                | text                             | bytes         |
| Enum                                     | its value                        | enum:Name     |
| dataclass, attrs, msgspec, pydantic      | dict of its fields               | object:Name   |

Anything else, NaN and infinity included, is refused: a condition would read it wrongly.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from tappass.wire.codec import canonical

Encoder: TypeAlias = Callable[[Any], Any]
Encoders: TypeAlias = Mapping[str | type, Encoder]

if TYPE_CHECKING:
    import datetime as dt
    from decimal import Decimal

MAX_DEPTH = 64


class Unprojectable(Exception):
    """A value that policy cannot see; says where it stands and why."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}" if where else why)
        self.where = where
        self.why = why


def escape(key: str) -> str:
    """Return a key as a JSON pointer token (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1") if "~" in key or "/" in key else key


def project(value: Any, where: str, types: dict[str, str], encoders: Encoders, depth: int = 0) -> Any:
    """Return `value` in JSON types; note each richer type in `types` by JSON pointer.

    Raises:
        Unprojectable: a part of the value has no projection.
    """
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise Unprojectable(where, f"{value} is not a number that a rule can compare")
        return value
    if depth > MAX_DEPTH:
        raise Unprojectable(where, f"nested more than {MAX_DEPTH} levels deep, or it contains itself")
    if encoders and (encoder := _declared(value, encoders)) is not None:
        types[where] = f"encoded:{kind.__name__}"
        return project(encoder(value), where, types, {}, depth + 1)
    if kind is dict:
        return _mapping(value, where, types, encoders, depth)
    if kind is list:
        return [project(item, f"{where}/{i}", types, encoders, depth + 1) for i, item in enumerate(value)]
    return _richer(value, where, types, encoders, depth)


def _declared(value: Any, encoders: Encoders) -> Encoder | None:
    for kind in type(value).__mro__:
        if kind in encoders:
            return encoders[kind]
    return None


def _mapping(value: Mapping[Any, Any], where: str, types: dict[str, str], encoders: Encoders, depth: int) -> Any:
    projected = {}
    for key, item in value.items():
        if type(key) is not str:
            raise Unprojectable(where, f"a key is of type {type(key).__name__}; JSON keys are text")
        projected[key] = project(item, f"{where}/{escape(key)}", types, encoders, depth + 1)
    return projected


def _richer(value: Any, where: str, types: dict[str, str], encoders: Encoders, depth: int) -> Any:
    """Project the types that JSON lacks, plain subclasses first."""
    if isinstance(value, enum.Enum):
        types[where] = f"enum:{type(value).__name__}"
        return project(value.value, where, {}, encoders, depth + 1)
    for kind, name, encode in _simple():
        if isinstance(value, kind):
            types[where] = name
            return encode(value, where)
    if isinstance(value, tuple):
        types[where] = "tuple"
        return [project(item, f"{where}/{i}", types, encoders, depth + 1) for i, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        types[where] = "set"
        return sorted((project(item, where, {}, encoders, depth + 1) for item in value), key=canonical)
    if (names := field_names(value)) is not None:
        types[where] = f"object:{type(value).__name__}"
        fields = {name: getattr(value, name) for name in names}
        return _mapping(fields, where, types, encoders, depth)
    return _subclass(value, where, types, encoders, depth)


# The base's own method: a subclass may have overridden what `str()` would call.
_PLAIN: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
)


def _subclass(value: Any, where: str, types: dict[str, str], encoders: Encoders, depth: int) -> Any:
    """Project subclasses of JSON's own types by their base value."""
    name = type(value).__name__
    for base, plain in _PLAIN:
        if isinstance(value, base):
            types[where] = f"{base.__name__}:{name}"
            return project(plain(value), where, types, {}, depth + 1)
    if isinstance(value, dict):
        types[where] = f"dict:{name}"
        return _mapping(dict.copy(value), where, types, encoders, depth)
    if isinstance(value, list):
        types[where] = f"list:{name}"
        return project(list(value), where, types, encoders, depth)
    raise Unprojectable(where, f"policy cannot see into a {name}")


def field_names(value: Any) -> Iterable[str] | None:
    """Return the field names of a dataclass, attrs, msgspec or pydantic instance, None for anything else."""
    kind = type(value)
    for attribute in ("__dataclass_fields__", "__struct_fields__", "__pydantic_fields__"):
        if (fields := getattr(kind, attribute, None)) is not None:
            return (*fields, *(getattr(value, "__pydantic_extra__", None) or ()))
    if (fields := getattr(kind, "__attrs_attrs__", None)) is not None:
        return tuple(field.name for field in fields)
    return None


def _decimal(value: Decimal, where: str) -> int | float:
    if not value.is_finite():
        raise Unprojectable(where, f"{value} is not a number that a rule can compare")
    if value == value.to_integral_value():
        return int(value)
    number = float(value)
    if type(value)(repr(number)) != value:
        # Rounded, a rule would compare another number than the tool gets.
        raise Unprojectable(where, "the Decimal has more digits than a double holds")
    return number


def _bytes(value: bytes | bytearray, _where: str) -> str:
    import base64

    return base64.b64encode(value).decode("ascii")


def _iso(value: dt.datetime | dt.date | dt.time, _where: str) -> str:
    return value.isoformat()


def _text(value: object, _where: str) -> str:
    return str(value)


@cache
def _simple() -> tuple[tuple[type, str, Callable[[Any, str], Any]], ...]:
    """Return the types of one plain projection each; imported when the first richer value comes."""
    import datetime as dt
    from decimal import Decimal
    from pathlib import PurePath
    from uuid import UUID

    return (
        (dt.datetime, "datetime", _iso),  # before date: it is one
        (dt.date, "date", _iso),
        (dt.time, "time", _iso),
        (dt.timedelta, "timedelta", lambda value, _where: value.total_seconds()),
        (Decimal, "decimal", _decimal),
        (UUID, "uuid", _text),
        (PurePath, "path", _text),
        (bytes, "bytes", _bytes),
        (bytearray, "bytes", _bytes),
    )
