"""Methods replaced on one object, or class, for as long as a guard needs them so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tappass.errors import TapPassConfigError

_NONE = object()
_lock = threading.Lock()


class _Armed:
    """One replaced method, and how many need it so."""

    def __init__(self, owner: Any, name: str, wrapper: Any) -> None:
        self.owner = owner
        self.name = name
        self.wrapper = wrapper
        self.before = vars(owner).get(name, _NONE)
        self.holders = 0

    def put(self, value: Any) -> None:
        """Set it, or take it off; an object's own `__setattr__` may know its fields only."""
        if isinstance(self.owner, type):
            delattr(self.owner, self.name) if value is _NONE else setattr(self.owner, self.name, value)
        elif value is _NONE:
            vars(self.owner).pop(self.name, None)
        else:
            vars(self.owner)[self.name] = value


_armed: dict[tuple[int, str], _Armed] = {}


def arm(owner: Any, name: str, around: Callable[[Any], Any]) -> Callable[[], None]:
    """Replace a method until what is returned is called, by whoever asks last.

    Args:
        owner: an object, or a class.
        name: the method's name.
        around: makes what is called instead, of what would have been called; asked once for all who need it.

    Raises:
        TapPassConfigError: the object takes no method of its own.
    """
    key = (id(owner), name)
    with _lock:
        armed = _armed.get(key)
        if armed is None:
            try:
                armed = _Armed(owner, name, around(_original(owner, name)))
            except TypeError:
                raise TapPassConfigError(f"a {type(owner).__name__} cannot be governed: it takes no method") from None
            armed.wrapper.__tappass_armed__ = owner
            armed.put(armed.wrapper)
            _armed[key] = armed
        armed.holders += 1
    return lambda: _disarm(key)


def _original(owner: Any, name: str) -> Any:
    """Return what is called today; a copy of an object that was armed starts from its class."""
    found = vars(owner).get(name)
    if found is not None and getattr(found, "__tappass_armed__", owner) is not owner:
        return getattr(type(owner), name).__get__(owner)
    return getattr(owner, name)


def _disarm(key: tuple[int, str]) -> None:
    with _lock:
        armed = _armed[key]
        armed.holders -= 1
        if armed.holders:
            return
        del _armed[key]
        if vars(armed.owner).get(armed.name) is armed.wrapper:
            armed.put(armed.before)
