"""Who wants to know of changes, and telling them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import Empty, SimpleQueue

from tappass.engine.store.port import CONTROL, OnChange
from tappass.engine.store.reading import Reader

POLL_S = 0.5

_HEADS = "SELECT org_id, size, control FROM log"

_log = logging.getLogger("tappass.store")


class Listeners:
    """The callbacks of one store.

    Attributes:
        committed: organisation and topic of changes that are committed and that nobody was told of yet.
    """

    def __init__(self) -> None:
        self._callbacks: list[OnChange] = []
        self.committed: SimpleQueue[tuple[str, str]] = SimpleQueue()

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def add(self, callback: OnChange) -> Callable[[], None]:
        """Have a callback told from now on; return what ends that."""
        # Never changed in place: `tell` may be going through it on another thread.
        self._callbacks = [*self._callbacks, callback]

        def end() -> None:
            self._callbacks = [each for each in self._callbacks if each is not callback]

        return end

    def tell_committed(self) -> None:
        """Tell of everything in `committed`; for a thread that holds no lock."""
        try:
            while not self.committed.empty():
                self.tell(*self.committed.get_nowait())
        except Empty:
            pass

    def tell(self, org_id: str, topic: str) -> None:
        """Call everybody; what one of them raises is logged, and the others are called."""
        for callback in self._callbacks:
            try:
                callback(org_id, topic)
            except Exception:
                _log.exception("a listener for changes failed")


class Poll:
    """Finds out what other processes changed where nobody says so: whatever people change adds to a log."""

    def __init__(self, read: Reader, listeners: Listeners) -> None:
        self._read, self._listeners = read, listeners
        self._seen = self._heads()

    def __call__(self) -> None:
        """Look once."""
        before, self._seen = self._seen, self._heads()
        for org_id, (size, control) in self._seen.items():
            known = before.get(org_id, (0, 0))
            if (size, control) != known:
                self._listeners.tell(org_id, CONTROL if control != known[1] else "")

    def _heads(self) -> dict[str, tuple[int, int]]:
        return {org_id: (size, control) for org_id, size, control in self._read.query(_HEADS)}
