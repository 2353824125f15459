"""The sender: one thread that brings what waits in the outbox to the plane, in order, until it is acknowledged."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

import msgspec

from tappass import forking
from tappass.errors import TapPassError
from tappass.plane.exchange import Asking, Reply, deliver
from tappass.plane.outbox import Outbox
from tappass.plane.refused import detail_of
from tappass.wire.codec import decode
from tappass.wire.service import Receipt

BATCH = 500
LINGER_S = 0.05
"""How long an ending waits for others to travel with."""
BACKOFF_S = (0.1, 0.3, 0.8, 2.0, 4.0)
HELD_S = 10.0
TRIES = 3
CLOSE_S = 2.0
FLUSH_S = 5.0

_log = logging.getLogger("tappass.outbox")


class Delivery:
    """Delivers an outbox. Of all processes that share the file, one sends at a time.

    Args:
        outbox: what is delivered.
        send: carries one request out and returns what came back; raises TapPassError if nothing did.
    """

    def __init__(self, outbox: Outbox, send: Callable[[Asking], Reply], name: str) -> None:
        self._outbox = outbox
        self._send = send
        self._name = name
        self._fresh()
        forking.join(self)

    def _fresh(self) -> None:
        self._mail: SimpleQueue[bool] = SimpleQueue()
        self._starting = forking.Lock()
        self._thread: threading.Thread | None = None
        self._lock_file = -1
        self._idle = False
        self._stopping = False
        self._failures = 0
        self._limit = BATCH
        self._held: dict[str, float] = {}
        self._begun = self._done = 0

    def start(self) -> None:
        """Have a thread running in this process; a forked child gets one of its own."""
        if self._thread is not None:
            return
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="tappass-outbox", daemon=True)
                self._thread.start()

    def nudge(self) -> None:
        """Say that there is something to deliver; costs nothing while the sender is busy."""
        if self._idle:
            self._idle = False
            self._mail.put(False)

    def waken(self) -> None:
        """Do the same from a finaliser: takes no lock."""
        self._mail.put(False)

    def hurry(self) -> int:
        """Have it delivered now; return a mark for `gave_up_since`."""
        self.start()
        self._mail.put(True)
        return self._begun

    def is_through(self, number: int) -> bool:
        """Tell whether everything up to that entry was delivered, by this process or another."""
        try:
            first = self._outbox.first()
        except (sqlite3.Error, OSError):
            return False
        return first == 0 or first > number

    def gave_up_since(self, mark: int) -> bool:
        """Tell whether an attempt has failed since: the plane is away, and waiting is of no use."""
        return self._done > mark and self._failures > 0

    def wait_for(self, number: int, timeout_s: float) -> bool:
        """Wait, that long at most, until everything up to an entry was delivered; tell whether it was."""
        mark, until = self.hurry(), time.monotonic() + timeout_s
        while not self.is_through(number):
            if time.monotonic() > until or self.gave_up_since(mark):
                return False
            time.sleep(0.002)
        return True

    def stop(self) -> int:
        """Deliver what can be delivered within five seconds, end the thread; return how many entries are left."""
        left = self._left()
        if left:
            self.wait_for(2**62, FLUSH_S)
        thread, self._stopping = self._thread, True
        self._mail.put(True)
        if thread is not None:
            thread.join(1.0)
        return self._left()

    def _left(self) -> int:
        try:
            self._outbox.write_out()
            return self._outbox.left()
        except (TapPassError, sqlite3.Error, OSError):
            return 1

    # The thread.

    def _work(self) -> None:
        mail = self._mail
        while not self._stopping:
            self._begun += 1
            try:
                pause = self._round()
            except Exception as error:
                # A disk that is full now may not be later, and nobody else delivers.
                _log.warning("the outbox %s is not delivered: %s", self._outbox.path, error)
                self._failures += 1
                pause = self._backoff()
            self._done = self._begun
            if pause is None:
                self._let_go()
                self._rest(mail)
            elif pause > 0:
                self._sleep(mail, pause)
        self._let_go()

    def _rest(self, mail: SimpleQueue[bool]) -> None:
        """Sleep until there is something; then a moment longer, for others to come along."""
        self._idle = True
        # What came between the look and this word did not wake anybody.
        if not self._outbox.first():
            urgent = mail.get()
            self._idle = False
            if not urgent:
                self._sleep(mail, LINGER_S)
        self._idle = False

    @staticmethod
    def _sleep(mail: SimpleQueue[bool], pause_s: float) -> None:
        until = time.monotonic() + pause_s
        while (left := until - time.monotonic()) > 0:
            try:
                if mail.get(timeout=left):
                    return
            except Empty:
                return

    def _round(self) -> float | None:
        """Deliver one batch; return how long to pause, None if nothing is left."""
        self._outbox.write_out()
        now = time.monotonic()
        self._held = {session: until for session, until in self._held.items() if until > now}
        entries = self._outbox.batch(self._limit, list(self._held))
        if not entries:
            return min(self._held.values()) - now if self._held else None
        if not self._take_turn():
            self._outbox.first()
            return 0.02 + 0.05 * random.random()  # noqa: S311 (another process sends)
        body = b"[" + b",".join(entry[2] for entry in entries) + b"]"
        try:
            reply = self._send(deliver(body))
        except TapPassError as error:
            return self._failed(f"{error}")
        return self._answered(reply, entries)

    def _answered(self, reply: Reply, entries: list[tuple[int, str, bytes]]) -> float:
        if 200 <= reply.status < 300 and _is_receipt(reply.body):
            self._outbox.delivered([entry[0] for entry in entries])
            if self._failures:
                _log.info("%s takes endings again", self._name)
            full = len(entries) == self._limit
            self._failures, self._limit = 0, min(BATCH, self._limit * 4)
            return 0.0 if full else LINGER_S
        if reply.status in (400, 409, 413, 415, 422):
            return self._refused(reply, entries)
        if reply.status == 500 and self._failures % TRIES == TRIES - 1:
            # It may be one entry that the plane stumbles over: the others shall not wait for it.
            if len(entries) == 1:
                self._held[entries[0][1]] = time.monotonic() + HELD_S
            self._limit = max(1, len(entries) // 8)
        return self._failed(detail_of(reply.body) or f"{self._name} answered {reply.status}")

    def _refused(self, reply: Reply, entries: list[tuple[int, str, bytes]]) -> float:
        if len(entries) > 1:
            self._limit = max(1, len(entries) // 8)
        else:
            self._outbox.set_aside(entries[0][0], detail_of(reply.body) or f"status {reply.status}")
        return 0.0

    def _failed(self, why: str) -> float:
        self._failures += 1
        if self._failures == 1:
            _log.warning("endings wait in %s and are sent again: %s", self._outbox.path, why)
        return self._backoff()

    def _backoff(self) -> float:
        return BACKOFF_S[min(self._failures, len(BACKOFF_S)) - 1] * (0.5 + random.random())  # noqa: S311

    # One sender among processes: a lock on a file of its own, since SQLite keeps its own locks on the other.

    def _take_turn(self) -> bool:
        if self._lock_file < 0:
            path = self._outbox.path.with_suffix(".lock")
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                return False
            self._lock_file = file
        return True

    def _let_go(self) -> None:
        file, self._lock_file = self._lock_file, -1
        if file >= 0:
            # Closing alone would leave it locked as long as a forked child has the same file open.
            fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)

    def before_fork(self) -> None:
        """Nothing here outlives a fork but the lock, which the child lets go of."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Leave the parent's turn to the parent; the thread is not here, so the next call starts one."""
        if self._lock_file >= 0:
            os.close(self._lock_file)
        self._fresh()


def _is_receipt(body: bytes) -> bool:
    try:
        decode(body, Receipt)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True
