"""What a child of a fork finds: locks that are free, libraries at rest, no connection of the parent's.

A fork copies one thread. What the others held stays held in the child for ever: locks of ours, those of the interpreter
around an import, and those inside C libraries that work without the GIL (SQLite, RE2, CEL, OpenSSL). Nor may an SQLite
connection be carried over: POSIX locks stay with the parent, yet the library in the child believes that it holds them,
and so does every connection that the child opens on the same file. Hence, before a fork:

1. `opening` is empty: nobody opens a database outside a store, or a plane;
2. every store has come to rest: what waits is written, its connections are closed, its locks are held;
3. `unforked` is empty: nobody is inside such a library, or importing.

Each may be waited for by what comes before it, never the other way round. In the child every `Lock` is renewed.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from threading import get_ident
from typing import Protocol

# Longer than anybody waits for a database. Nothing can stop a fork: after that it happens all the same.
WAIT_S = 60.0
_LOOK_S = 0.0002


class Forkable(Protocol):
    """What takes part in a fork. A step may fail; the other steps are taken all the same."""

    def before_fork(self) -> None:
        """Come to rest and take every lock."""

    def after_fork_in_parent(self) -> None:
        """Release the locks that were taken."""

    def after_fork_in_child(self) -> None:
        """Replace locks, queues and threads."""


class Lock:
    """A reentrant lock that the child of a fork finds free, unless the thread that forked held it."""

    __slots__ = ("__weakref__", "_at_rest", "_lock")

    def __init__(self) -> None:
        self._lock, self._at_rest = threading.RLock(), False
        _locks.add(self)

    @property
    def mine(self) -> bool:
        """Whether this thread holds it."""
        return self._lock._is_owned()  # type: ignore[attr-defined,no-any-return]

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def rest(self) -> bool:
        """Take it for a fork; return False if this thread has it already, and so forks in the midst of something."""
        if self.mine:
            return False
        # Said before it is so: an interrupt in between must not leave a lock that nobody releases.
        self._at_rest = True
        return self._lock.acquire()

    def go_on(self) -> None:
        """Release what `rest` took."""
        at_rest, self._at_rest = self._at_rest, False
        if at_rest and self.mine:
            self._lock.release()

    def renew(self) -> None:
        """Forget who held it, in a child where they are not."""
        if not self.mine:
            self._lock = threading.RLock()


class Region:
    """Code that a fork waits for: any number of threads are in it at once, and those that come later wait for the fork.

    Costs half a microsecond. Whoever is in it already, or forks, enters without waiting.
    """

    __slots__ = ("_forker", "_inside", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._inside: list[int] = []
        self._forker = 0

    @property
    def closed(self) -> bool:
        """Whether a fork is under way: it waits for those inside, or has gone on."""
        return self._forker != 0

    def __enter__(self) -> None:
        me = get_ident()
        # First in, then a look, as `close` first closes, then looks: one of the two sees the other.
        self._inside.append(me)
        if self._forker:
            self._step_back(me)

    def __exit__(self, *exc: object) -> None:
        self._inside.remove(get_ident())

    def close(self) -> None:
        """Wait until no other thread is inside, and keep others out."""
        me = self._forker = get_ident()
        until = time.monotonic() + WAIT_S
        while any(each != me for each in tuple(self._inside)):
            if time.monotonic() > until:
                raise TimeoutError(f"{self._name} has not ended within {WAIT_S:.0f} s")
            time.sleep(_LOOK_S)

    def open(self) -> None:
        """Let others in again."""
        self._forker = 0

    def renew(self) -> None:
        """Forget, in a child, those who are not there."""
        me = get_ident()
        self._inside[:] = [each for each in self._inside if each == me]
        self._forker = 0

    def _step_back(self, me: int) -> None:
        until = time.monotonic() + WAIT_S
        while self._forker not in (0, me) and self._inside.count(me) == 1 and time.monotonic() < until:
            self._inside.remove(me)
            time.sleep(_LOOK_S)
            self._inside.append(me)


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()
_members: weakref.WeakValueDictionary[int, Forkable] = weakref.WeakValueDictionary()
_resting: list[Forkable] = []
_forking = threading.RLock()
_collects = True

opening = Region("opening a database")
"""For what opens databases outside a store, or a plane with all that it loads; stores may be used in it."""
unforked = Region("work in a library")
"""For calls into such libraries, and imports where threads already call tools. In it no store may be used."""


def join(member: Forkable) -> None:
    """Have something told about forks for as long as it lives."""
    _members[id(member)] = member


def leak(carried_over: object) -> None:
    """Have a connection of the parent's never be closed in its child, not even at exit; None is fine."""
    if carried_over is not None:
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(carried_over))


def _before() -> None:
    global _collects
    _forking.acquire()
    # No finaliser may ask for what is at rest now.
    _collects = gc.isenabled()
    gc.disable()
    _attempt(opening.close)
    _resting[:] = [member for each in _members.valuerefs() if (member := each()) is not None]
    for member in _resting:
        _attempt(member.before_fork)
    _attempt(unforked.close)


def _in_parent() -> None:
    while _resting:
        _attempt(_resting.pop().after_fork_in_parent)
    unforked.open()
    opening.open()
    _collect()
    _attempt(_forking.release)


def _in_child() -> None:
    global _forking
    _forking = threading.RLock()
    for lock in tuple(_locks):
        lock.renew()
    while _resting:
        _attempt(_resting.pop().after_fork_in_child)
    unforked.renew()
    opening.renew()
    _collect()


def _attempt(step: Callable[[], object]) -> None:
    """Take a step; whatever becomes of it, an interrupt included, the others are to be taken as well."""
    try:
        step()
    except BaseException:
        import logging

        logging.getLogger("tappass.store").exception("a step of a fork failed; its child may not be able to go on")


def _collect() -> None:
    if _collects:
        gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)

__all__ = ["Forkable", "Lock", "Region", "join", "leak", "opening", "unforked"]
