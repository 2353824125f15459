"""Hearing of what any server changed: one thread that listens on one connection."""

from __future__ import annotations

import logging
import os
import select
import threading
import time

import psycopg

from tappass.engine.store.listeners import Listeners
from tappass.engine.store.postgres_link import Address, Connection, carried_over
from tappass.engine.store.postgres_tx import CHANNEL

RETRY_S = 0.5

_log = logging.getLogger("tappass.store")


class Ear:
    """LISTEN on PostgreSQL; listens again by itself after an outage, and then has everybody look, for it was deaf."""

    def __init__(self, address: Address, listeners: Listeners) -> None:
        self._address, self._listeners = address, listeners
        self._mutex = threading.Lock()
        self.renew()

    def renew(self) -> None:
        """Start without a thread: in a fork's child."""
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._ready = threading.Event()
        self._stopped = False
        self._wake: tuple[int, int] | None = None

    def leak(self) -> None:
        """Let go of what a fork carried over; listen again if anybody did."""
        listened = self._thread is not None
        if self._connection is not None:
            carried_over(self._connection)
        for descriptor in self._wake or ():
            os.close(descriptor)
        self._mutex = threading.Lock()
        self.renew()
        if listened:
            self._begin()

    def start(self) -> None:
        """Listen from now on; returns once that is so, or after a moment where the database is away."""
        self._begin()
        self._ready.wait(2)

    def _begin(self) -> None:
        with self._mutex:
            if self._thread is None and not self._stopped:
                self._wake = os.pipe()
                self._thread = threading.Thread(target=self._run, name="tappass-changes", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        with self._mutex:
            self._stopped = True
            thread, wake = self._thread, self._wake
            if thread is None or wake is None:
                return
            os.write(wake[1], b"x")
        if thread is not threading.current_thread():
            thread.join(5)
        self._wake = None
        for descriptor in wake:
            os.close(descriptor)

    def _run(self) -> None:
        deaf = False
        while not self._stopped:
            try:
                with self._address.connect() as connection:
                    self._connection = connection
                    connection.execute(f"LISTEN {CHANNEL}")
                    if deaf:
                        self._listeners.tell("", "")
                    self._ready.set()
                    self._listen(connection)
            except (psycopg.Error, OSError) as error:
                if self._stopped:
                    return
                _log.warning("changes by other servers are not heard (%s); listening again", error)
                deaf = True
                time.sleep(RETRY_S)
            finally:
                self._connection = None

    def _listen(self, connection: Connection) -> None:
        wake = self._wake
        while not self._stopped and wake is not None:
            for heard in connection.notifies(timeout=0):
                topic, _, org_id = heard.payload.partition(" ")
                self._listeners.tell(org_id, topic)
            select.select([connection.fileno(), wake[0]], [], [])
