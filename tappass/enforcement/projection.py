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

Anything else is refused, NaN, infinity and integers beyond 14,000 bits included: a condition would read it wrongly.
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
ENCODED = "encoded"
# Python writes no integer of more than 4,300 digits.
MAX_BITS = 14_000


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
    if kind is str:
        return value if value.isascii() else _unicode(value, where)
    if kind is bool or value is None:
        return value
    if kind is int:
        if value.bit_length() > MAX_BITS:
            raise Unprojectable(where, "the number has too many digits to be written down")
        return value
    if kind is float:
        if not math.isfinite(value):
            raise Unprojectable(where, f"{value} is not a number that a rule can compare")
        return value
    if depth > MAX_DEPTH:
        raise Unprojectable(where, f"nested more than {MAX_DEPTH} levels deep, or it contains itself")
    if encoders and (encoder := _declared(value, encoders)) is not None:
        shown = project(encoder(value), where, types, {}, depth + 1)
        types[where] = encoded(kind.__name__)
        return shown
    if kind is dict:
        return _mapping(value, where, types, encoders, depth)
    if kind is list:
        return [project(item, f"{where}/{i}", types, encoders, depth + 1) for i, item in enumerate(value)]
    return _richer(value, where, types, encoders, depth)


def _unicode(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unprojectable(where, "the text holds half a surrogate pair, which is no Unicode") from None
    return text


def encoded(what: str | None) -> str:
    """Return the type recorded for what a tool's own encoder showed."""
    return f"{ENCODED}:{what}" if what else ENCODED


def is_encoded(where: str, types: Mapping[str, str]) -> bool:
    """Tell whether a place is, or lies inside, what an encoder showed instead of the value."""
    return any(
        kind.startswith(ENCODED) and (where == at or where.startswith((f"{at}/", f"{at}~")))
        for at, kind in types.items()
    )


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
        if not key.isascii():
            _unicode(key, where)
        projected[key] = project(item, f"{where}/{escape(key)}", types, encoders, depth + 1)
    return projected


def _richer(value: Any, where: str, types: dict[str, str], encoders: Encoders, depth: int) -> Any:
    """Project the types that JSON lacks, plain subclasses first."""
    if isinstance(value, enum.Enum):
        types[where] = f"enum:{type(value).__name__}"
        return project(value.value, where, {}, encoders, depth + 1)
    if (names := field_names(value)) is not None:
        return _fields(value, names, where, types, encoders, depth)
    for kind, name, encode in _simple():
        if isinstance(value, kind):
            types[where] = name
            return encode(value, where)
    if isinstance(value, tuple):
        types[where] = "tuple"
        items = tuple.__iter__(value)
        return [project(item, f"{where}/{i}", types, encoders, depth + 1) for i, item in enumerate(items)]
    if isinstance(value, set | frozenset):
        return _set(value, where, types, encoders, depth)
    return _subclass(value, where, types, encoders, depth)


def _set(
    value: set[Any] | frozenset[Any], where: str, types: dict[str, str], encoders: Encoders, depth: int
) -> list[Any]:
    types[where] = "set"
    items: list[tuple[Any, dict[str, str]]] = []
    for item in (set if isinstance(value, set) else frozenset).__iter__(value):  # type: ignore[arg-type]
        inner: dict[str, str] = {}
        items.append((project(item, "", inner, encoders, depth + 1), inner))
    items.sort(key=canonical)
    for i, (_, inner) in enumerate(items):
        types.update({f"{where}/{i}{below}": kind for below, kind in inner.items()})
    return [item for item, _ in items]


_WHOLE = (str, bytes, bytearray, int, float, dict, list, tuple, set, frozenset)


def _fields(value: Any, names: Iterable[str], where: str, types: dict[str, str], encoders: Encoders, depth: int) -> Any:
    kind = type(value).__name__
    if isinstance(value, _WHOLE) or any(isinstance(value, known) for known, _, _ in _simple()):
        # Its fields are not all of it.
        raise Unprojectable(where, f"a {kind} has fields beside being a value itself")
    types[where] = f"object:{kind}"
    return _mapping({name: getattr(value, name) for name in names}, where, types, encoders, depth)


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
        return _mapping(dict(dict.items(value)), where, types, encoders, depth)
    if isinstance(value, list):
        types[where] = f"list:{name}"
        return project(list(list.__iter__(value)), where, types, encoders, depth)
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
    if value.adjusted() > 308:
        raise Unprojectable(where, "the Decimal is larger than a double can be")
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
