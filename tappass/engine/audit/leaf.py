"""Reading leaves fast: AuditEvent with its fields in canonical order, which halves the time to check its bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tappass.wire.codec import canonical
from tappass.wire.events import AuditEvent

# Never absent in a leaf, so without a default here.
_ALWAYS = ("v", "seq", "log_id", "epoch")


def _declared(field: msgspec.structs.FieldInfo) -> tuple[str, Any] | tuple[str, Any, Any]:
    if field.required or field.name in _ALWAYS:
        return (field.name, field.type)
    if field.default_factory is not msgspec.NODEFAULT:
        # Not worth a fresh dict a leaf.
        return (field.name, field.type | msgspec.UnsetType, msgspec.UNSET)
    return (field.name, field.type, field.default)


_Leaf: Any = msgspec.defstruct(
    "_Leaf",
    [_declared(field) for field in sorted(msgspec.structs.fields(AuditEvent), key=lambda field: field.name)],
    kw_only=True,
    omit_defaults=True,
    gc=False,
)
# The leaf has AuditEvent's attributes. Written again it has the same bytes, unless it has members unknown here.
decode: Callable[[bytes], Any] = msgspec.json.Decoder(_Leaf).decode
encode: Callable[[Any], bytes] = msgspec.json.Encoder(order="deterministic").encode
UNREADABLE = (msgspec.MsgspecError, RecursionError)


def is_canonical(line: bytes) -> bool:
    """Tell whether JSON is in canonical form, whatever its members."""
    try:
        return canonical(msgspec.json.decode(line)) == line
    except UNREADABLE:
        return False
