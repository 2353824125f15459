"""What a stranger may make the server do: how large a body, how deep, how slow, how many wrong keys."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

FAILURES, WINDOW_S, ADDRESSES = 20, 60.0, 4096


class Attempts:
    """Keys that were not valid, counted by the client's address; bounded in memory.

    After `FAILURES` within `WINDOW_S` a further one is answered by how long to wait. A valid key passes all the same:
    one misconfigured agent must not lock out everybody behind the same address.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failed: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def failed(self, address: str) -> int:
        """Count a failure; return the seconds to wait before the next, 0 as long as there were few."""
        now = self._now()
        began, count = self._failed.pop(address, (now, 0))
        if now - began >= WINDOW_S:
            began, count = now, 0
        self._failed[address] = began, count + 1
        while len(self._failed) > ADDRESSES:
            self._failed.popitem(last=False)
        return self._left(began, now) if count >= FAILURES else 0

    def waiting(self, address: str) -> int:
        """Return the seconds that an address has to wait, 0 if it may try."""
        began, count = self._failed.get(address, (0.0, 0))
        now = self._now()
        return self._left(began, now) if count >= FAILURES and now - began < WINDOW_S else 0

    @staticmethod
    def _left(began: float, now: float) -> int:
        return max(1, int(began + WINDOW_S - now) + 1)
