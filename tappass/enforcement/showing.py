"""Results, shown for inspection and rebuilt with spans replaced: same kind out as in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tappass.enforcement.action import Call
from tappass.enforcement.projection import Encoders, Unprojectable, escape, field_names, project
from tappass.enforcement.verdicts import redacted, withheld
from tappass.wire.decisions import Decision
from tappass.wire.endings import Settlement
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
    """Return the value with these spans replaced, containers and classes kept; parts that hold none are shared.

    Raises:
        Unrebuildable: a span lies inside a type that cannot be rebuilt, or where the value has nothing.
        TapPassConfigError: a span does not lie inside its text.
    """
    if not redactions:
        return value
    own, keys, below = _parted(redactions)
    if own:
        return _text(value, own, alone=not (keys or below))
    if type(value) is dict:
        rebuilt = _mapping(value, keys, below)
    elif keys:
        raise Unrebuildable(type(value).__name__)
    elif isinstance(value, list | tuple):
        rebuilt = _sequence(value, below)
    else:
        rebuilt = _object(value, below)
    if below:
        raise Unrebuildable(type(value).__name__)
    return rebuilt


def _parted(
    redactions: Sequence[Redaction],
) -> tuple[list[Redaction], list[Redaction], dict[str, list[Redaction]]]:
    """Return the redactions of a value itself, of its keys, and those below each pointer token, relative to it."""
    own: list[Redaction] = []
    keys: list[Redaction] = []
    below: dict[str, list[Redaction]] = {}
    for redaction in redactions:
        if not redaction.where:
            own.append(redaction)
            continue
        token, slash, rest = redaction.where[1:].partition("/")
        if not slash and token.endswith("~key"):
            keys.append(redaction)
        else:
            below.setdefault(token, []).append(msgspec.structs.replace(redaction, where=slash + rest))
    return own, keys, below


def _text(value: Any, own: list[Redaction], *, alone: bool) -> Any:
    from tappass.enforcement.redaction import redact_value  # few calls ever redact

    if not alone or type(value) not in (str, int, float, bytes, bytearray):
        raise Unrebuildable(type(value).__name__)
    if not isinstance(value, bytes | bytearray):
        return redact_value(value, own)
    try:
        text = bytes(value).decode()
    except UnicodeDecodeError:
        raise Unrebuildable(type(value).__name__) from None
    return type(value)(redact_value(text, own).encode())


def _mapping(value: dict[str, Any], keys: list[Redaction], below: dict[str, list[Redaction]]) -> dict[str, Any]:
    inner = {key: rebuild(item, below.pop(escape(key), ())) for key, item in value.items()}
    if not keys:
        return inner
    from tappass.enforcement.redaction import redact_value

    return dict(redact_value(inner, keys))


def _sequence(value: Sequence[Any], below: dict[str, list[Redaction]]) -> Any:
    items = [rebuild(item, below.pop(str(i), ())) for i, item in enumerate(value)]
    if type(value) is list:
        return items
    if type(value) is tuple:
        return tuple(items)
    if hasattr(value, "_replace"):
        return _made(value, lambda: type(value)(*items))
    raise Unrebuildable(type(value).__name__)


def _object(value: Any, below: dict[str, list[Redaction]]) -> Any:
    changed = {
        name: rebuild(getattr(value, name), below.pop(escape(name)))
        for name in field_names(value) or ()
        if escape(name) in below
    }
    if not changed:
        raise Unrebuildable(type(value).__name__)
    return _made(value, lambda: _with_fields(value, changed))


def _made(value: Any, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception:
        # Its own checks refuse what was put in; their message may quote it.
        raise Unrebuildable(type(value).__name__) from None


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


def released(call: Call, decision: Decision, settlement: Settlement, result: Any) -> Any:
    """Return what may be seen of a result.

    Raises:
        PolicyBlockError: nothing of it may.
        RedactionApplied: the caller asked for an error rather than a redacted value.
    """
    name, ids = call.action.name, decision.correlation
    if settlement.withheld_by:
        raise withheld(settlement, name, ids)
    if not settlement.redactions:
        return result
    try:
        clean = rebuild(result, settlement.redactions)
    except Unrebuildable as error:
        reason = f"its result holds what must be redacted inside a {error}, which cannot be rebuilt"
        raise withheld(Settlement(withheld_by="result-not-redactable", reason=reason), name, ids) from None
    if call.raise_on_redaction:
        raise redacted(settlement.redactions, clean, name, ids, ran=True)
    return clean
