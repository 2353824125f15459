"""Bytes: canonical ones to hash and sign, JSON ones to send."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

# "sorted", not "deterministic": the latter leaves struct fields in declared order, which RFC 8785 does not.
_canonical = msgspec.json.Encoder(order="sorted")
_plain = msgspec.json.Encoder()


def canonical(value: Any) -> bytes:
    """Return the deterministic JSON bytes of a value.

    They equal RFC 8785 (JCS) for values without floats, with integers below 2^53 and keys within the Basic
    Multilingual Plane, which every hashed structure here keeps to.
    """
    return _canonical.encode(value)


def encode(value: Any) -> bytes:
    """Return JSON bytes, fields in declared order."""
    return _plain.encode(value)


def decode(data: bytes | str, shape: type[T]) -> T:
    """Read JSON into a wire type.

    Raises:
        msgspec.ValidationError: the data do not have that shape.
    """
    return msgspec.json.decode(data, type=shape)
