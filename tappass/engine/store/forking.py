"""What happens to open stores when the process forks.

An SQLite connection may not be carried over a fork: POSIX locks stay with the parent, yet the library in the child
believes that it holds them, and so does every connection that the child opens afterwards on the same file. A parent
that ends would then find nobody else in the database and delete the write-ahead log under the child. So stores are
flushed and closed before the fork, with their locks held, and both sides open anew at their next use.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import Protocol


class Forkable(Protocol):
    """What takes part in a fork."""

    def before_fork(self) -> None:
        """Come to rest and take every lock."""

    def after_fork_in_parent(self) -> None:
        """Release the locks."""

    def after_fork_in_child(self) -> None:
        """Replace locks, queues and threads."""


_log = logging.getLogger("tappass.store")
_members: weakref.WeakSet[Forkable] = weakref.WeakSet()
_resting: list[Forkable] = []
_forking = threading.Lock()


def join(member: Forkable) -> None:
    """Have a store told about forks for as long as it lives."""
    with _forking:
        _members.add(member)


def _before() -> None:
    _forking.acquire()
    _resting[:] = sorted(_members, key=id)
    for member in _resting:
        try:
            member.before_fork()
        except Exception:
            # Whatever it was, the others must come to rest as well: nothing can stop a fork here.
            _log.exception("a store could not come to rest before a fork")


def _in_parent() -> None:
    while _resting:
        _resting.pop().after_fork_in_parent()
    _forking.release()


def _in_child() -> None:
    global _forking
    _forking = threading.Lock()
    while _resting:
        _resting.pop().after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
