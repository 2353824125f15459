"""Results, shown for inspection and rebuilt with spans replaced: same kind out as in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tappass.enforcement.projection import Encoders, Unprojectable, escape, field_names, project
from tappass.wire.findings import Redaction


class Unrebuildable(Exception):
    """A span cannot be replaced inside this type without breaking it."""


def show(value: Any) -> tuple[Any, bool]:
    """Return a result in JSON types as far as possible, and whether part of it stayed opaque.

    Bytes are shown as the text they decode to. What has no projection is shown as null.
    """
    try:
        types: dict[str, str] = {}
        return project(value, "", types, _TEXT_OF_BYTES), False
    except (Unprojectable, RecursionError):
        return None, True


def _decoded(value: bytes | bytearray) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise Unprojectable("", "bytes that are not text") from None


_TEXT_OF_BYTES: Encoders = {bytes: _decoded, bytearray: _decoded}


def rebuild(value: Any, redactions: Sequence[Redaction]) -> Any:
    """Return the value with these spans replaced, containers and classes kept.

    Raises:
        Unrebuildable: a span lies inside a type that cannot be rebuilt.
    """
    if not redactions:
        return value
    from tappass.enforcement.redaction import redact_value  # few calls ever redact

    if isinstance(value, bytes | bytearray):
        return type(value)(redact_value(bytes(value).decode(), redactions).encode())
    if type(value) is list:
        return [rebuild(item, _below(redactions, str(i))) for i, item in enumerate(value)]
    if type(value) is tuple:
        return tuple(rebuild(item, _below(redactions, str(i))) for i, item in enumerate(value))
    if isinstance(value, tuple) and hasattr(value, "_replace"):
        return type(value)(*(rebuild(item, _below(redactions, str(i))) for i, item in enumerate(value)))
    if type(value) is dict:
        return _mapping(value, redactions)
    if type(value) in (str, int, float):
        return redact_value(value, redactions)
    if (names := field_names(value)) is not None:
        changed = {name: part for name in names if (part := _below(redactions, escape(name)))}
        return _with_fields(value, {name: rebuild(getattr(value, name), part) for name, part in changed.items()})
    raise Unrebuildable(type(value).__name__)


def _mapping(value: dict[str, Any], redactions: Sequence[Redaction]) -> dict[str, Any]:
    keys = [r for r in redactions if r.where.endswith("~key") and r.where.count("/") == 1]
    from tappass.enforcement.redaction import redact_value

    inner = {key: rebuild(item, _below(redactions, escape(key))) for key, item in value.items()}
    return redact_value(inner, keys) if keys else inner


def _below(redactions: Sequence[Redaction], token: str) -> list[Redaction]:
    """Return the redactions under one pointer token, made relative to it; a key's own are not among them."""
    prefix = "/" + token
    return [
        msgspec.structs.replace(r, where=r.where[len(prefix) :])
        for r in redactions
        if r.where == prefix or r.where.startswith(prefix + "/")
    ]


def _with_fields(value: Any, changed: dict[str, Any]) -> Any:
    """Copy an instance with some fields replaced, in its own library's way."""
    if hasattr(value, "__dataclass_fields__"):
        from dataclasses import replace

        return replace(value, **changed)
    if hasattr(value, "__struct_fields__"):
        return msgspec.structs.replace(value, **changed)
    if hasattr(value, "model_copy"):
        return value.model_copy(update=changed)
    import copy

    clone = copy.copy(value)
    for name, item in changed.items():
        object.__setattr__(clone, name, item)
    return clone
