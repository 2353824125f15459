"""The writing connection to one SQLite file: opened when needed, and only ever to the file first opened."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from tappass import forking
from tappass.engine.store import migrate
from tappass.engine.store.outage import cannot_record, moved
from tappass.errors import TapPassConnectionError

MEMORY = ":memory:"

# 16 MB of log between copies into the main file: fewer waits for the disk than at SQLite's own 4 MB.
_PAGES_PER_CHECKPOINT = 4000


class Link:
    """One connection for writing; whoever holds the store's lock may use it."""

    def __init__(self, path: str | os.PathLike[str], synchronous: str, busy_timeout_s: float) -> None:
        self.path = MEMORY if str(path) == MEMORY else os.path.abspath(path)
        self._synchronous, self._busy_timeout_s = synchronous, busy_timeout_s
        self._identity: tuple[int, int] | None = None
        self._connection: sqlite3.Connection | None = None
        if self.path == MEMORY:
            self._connection = self.connect()
            migrate.create(self._connection)
        else:
            migrate.prepare(self.path)
            try:
                self.ready()
            except sqlite3.Error as error:
                raise cannot_record(self.path, error) from error

    def ready(self) -> sqlite3.Connection:
        """Return the connection, opening it if need be.

        Raises:
            TapPassConnectionError: the file is not the one that was first opened.
        """
        if self.path != MEMORY:
            self._check_identity()
        if self._connection is None:
            self._connection = self.connect()
        return self._connection

    def connect(self) -> sqlite3.Connection:
        """Open another connection; it never creates the file."""
        address = MEMORY if self.path == MEMORY else f"{Path(self.path).as_uri()}?mode=rw"
        connection = sqlite3.connect(
            address,
            uri=True,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_PER_CHECKPOINT}")
        return connection

    def drop(self) -> None:
        """Close the connection; the next use opens one."""
        if self.path == MEMORY:
            return
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def leak(self) -> None:
        """Forget a connection that a fork carried over, without closing it: that would act on the parent's locks."""
        if self.path != MEMORY:
            forking.leak(self._connection)
            self._connection = None

    def sync(self) -> None:
        """Have everything committed so far survive power loss."""
        if self.path == MEMORY:
            return
        try:
            if self.ready().execute("PRAGMA wal_checkpoint(FULL)").fetchone()[0]:
                # Somebody reads or writes. The write-ahead log is as durable once it is on the disk itself.
                descriptor = os.open(f"{self.path}-wal", os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except (sqlite3.Error, OSError) as error:
            raise cannot_record(self.path, error) from error

    def _check_identity(self) -> None:
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise moved(self.path) from error
        identity = (status.st_dev, status.st_ino)
        if self._identity is None:
            self._identity = identity
        elif identity != self._identity:
            raise moved(self.path)


def closed(path: str) -> TapPassConnectionError:
    """Return the error for a store that was closed."""
    return TapPassConnectionError(f"cannot write the audit record to {path}: it was closed; nothing ran")
