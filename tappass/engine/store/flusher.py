"""A daemon thread that writes what waits, within 50 ms, and calls what is due on a schedule."""

from __future__ import annotations

import _thread
import logging
import os
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from tappass.errors import TapPassConnectionError

DELAY_S = 0.04
RETRY_S = 0.5

_log = logging.getLogger("tappass.store")


class Flusher:
    """Calls `flush` soon after `arm()`; started by the first use, again after a fork.

    `arm()` is safe in a finaliser or a signal handler: neither `SimpleQueue.put` nor the raw start of a thread takes
    a lock that the interrupted code may hold, as `threading.Event` and `threading.Thread` do.

    Attributes:
        armed: a flush is coming; there is no need to ask again.
    """

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._due: list[tuple[float, float, Callable[[], None]]] = []
        self.reset()

    def reset(self) -> None:
        """Forget the thread, which a fork has left in the parent."""
        self.armed = False
        self._started = False
        self._wake: SimpleQueue[bool] = SimpleQueue()

    def arm(self) -> None:
        """Ask for a flush."""
        self.armed = True
        self._wake.put(True)
        self._start()

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` every so many seconds from now on, on the flusher's thread."""
        self._due.append((time.monotonic() + seconds, seconds, action))
        self._wake.put(True)
        self._start()

    def stop(self) -> None:
        """Let the thread end, and start no other."""
        self._due.clear()
        self._started = True
        self._wake.put(False)

    def _start(self) -> None:
        if self._started:
            return
        self._started = True
        try:
            _thread.start_new_thread(self._run, (self._wake, os.getpid()))
        except RuntimeError:
            # The interpreter is going down: what waits is written at exit.
            self._started = False

    def _run(self, wake: SimpleQueue[bool], pid: int) -> None:
        retry: float | None = None
        while wake is self._wake and os.getpid() == pid:
            try:
                if not wake.get(timeout=self._pause(retry)):
                    # Two may have been started at once; the other must end too.
                    wake.put(False)
                    return
                time.sleep(DELAY_S)
            except Empty:
                pass
            self.armed = False
            retry = None if self._attempt(self._flush) else RETRY_S
            self._call_due()

    def _pause(self, retry: float | None) -> float | None:
        pauses = [max(0.0, at - time.monotonic()) for at, _, _ in self._due]
        if retry is not None:
            pauses.append(retry)
        return min(pauses, default=None)

    def _call_due(self) -> None:
        now = time.monotonic()
        for index, (at, seconds, action) in enumerate(list(self._due)):
            if at <= now and self._due:
                self._due[index] = (now + seconds, seconds, action)
                self._attempt(action)

    def _attempt(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except TapPassConnectionError as error:
            _log.warning("%s; it is kept, and tried again", error)
            return False
        except Exception:
            _log.exception("a scheduled write failed")
        return True
