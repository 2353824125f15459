"""Answers as they are shown for inspection: their text in JSON types, by field names, so that they can be rebuilt."""

from __future__ import annotations

import base64
import math
from typing import Any

# Base64 of pictures, sound and files: words found in there are none, and replacing them would break it.
_BINARY = {"data", "blob"}
_DEPTH = 64


def shown(result: Any) -> tuple[Any, bool]:
    """Return an answer in JSON types as far as possible, and whether part of it stayed opaque.

    What is opaque stands there as null; the text beside it is shown all the same.
    """
    opaque: list[Any] = []
    return _view(result, opaque, 0), bool(opaque)


def _view(value: Any, opaque: list[Any], depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if depth > _DEPTH:
        opaque.append(value)
        return None
    if isinstance(value, str):
        return _text(value, opaque)
    if isinstance(value, int | float):
        return value if isinstance(value, int) or math.isfinite(value) else None
    if isinstance(value, dict):
        binary = _BINARY if "mimeType" in value or "uri" in value else ()
        return {
            str(key): _bytes(item, opaque)
            if key in binary and isinstance(item, str)
            else _view(item, opaque, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_view(item, opaque, depth + 1) for item in value]
    if (fields := getattr(type(value), "model_fields", None)) is not None:
        return _model(value, fields, opaque, depth)
    if type(value).__module__.partition(".")[0] in ("pydantic", "pydantic_core"):
        return str(value)  # a url
    opaque.append(value)
    return None


def _text(value: str, opaque: list[Any]) -> str | None:
    try:
        value.encode()
    except UnicodeEncodeError:
        opaque.append(value)
        return None
    return str(value)


def _model(value: Any, fields: Any, opaque: list[Any], depth: int) -> dict[str, Any]:
    view: dict[str, Any] = {}
    for name in (*fields, *(getattr(value, "model_extra", None) or ())):
        item = getattr(value, name)
        is_bytes = isinstance(item, bytes | bytearray) or (name in _BINARY and isinstance(item, str))
        view[name] = _bytes(item, opaque) if is_bytes else _view(item, opaque, depth + 1)
    return view


def _bytes(value: str | bytes | bytearray, opaque: list[Any]) -> str | None:
    """Return null for what holds bytes; base64 that is none is text as any other."""
    if isinstance(value, str):
        try:
            base64.b64decode(value, validate=True)
        except ValueError:
            return _text(value, opaque)
    if value:
        opaque.append(value)
    return None
