"""The outbox: endings and closes on their way to a remote plane, in a file that outlives the process."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections import deque
from collections.abc import Collection
from pathlib import Path
from queue import Empty, SimpleQueue

from tappass import forking
from tappass.errors import TapPassConnectionError
from tappass.wire.codec import encode
from tappass.wire.service import Closing, Ended, Entry

FOLDER = "TAPPASS_OUTBOX"
LIMIT = "TAPPASS_OUTBOX_LIMIT"
DEFAULT_LIMIT = 100_000
BUSY_S = 5.0

_log = logging.getLogger("tappass.outbox")

_TABLES = """
    CREATE TABLE IF NOT EXISTS entry (
        id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL, body BLOB NOT NULL
    );
    CREATE TABLE IF NOT EXISTS refused (
        id INTEGER PRIMARY KEY, session_id TEXT NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL
    );
"""
_APPEND = "INSERT INTO entry (session_id, body) VALUES (?, ?)"
_ENDS = "SELECT min(id), max(id) FROM entry"


class Outbox:
    """What was not delivered yet, oldest first. What `append` has returned from survives the process.

    Args:
        path: the file; made with its directory, readable by its owner alone.
        limit: from how many entries on new calls are refused.

    Raises:
        TapPassConnectionError: the file cannot be written.
    """

    def __init__(self, path: Path, *, limit: int = DEFAULT_LIMIT) -> None:
        self.path = path
        self.limit = limit
        self._lock = forking.Lock()
        self._connection: sqlite3.Connection | None = None
        self._later: SimpleQueue[Entry] = SimpleQueue()
        # What the disk refused: kept here until it takes it, and meanwhile no new call is let run.
        self._unwritten: deque[tuple[str, bytes]] = deque()
        self._size = 0
        with forking.opening, self._lock:
            try:
                self._size = self._span(self._open())
            except (sqlite3.Error, OSError) as error:
                raise self._unusable(error) from error
        forking.join(self)

    def append(self, entry: Entry) -> int:
        """Take an entry; it is in the file when this returns. Return its number, 0 if the disk refuses it for now.

        It then waits in memory, and `check_room` refuses new calls until the disk takes it.
        """
        row = (_session_of(entry), encode(entry))
        with self._lock:
            if not self._unwritten:
                try:
                    number = self._open().execute(_APPEND, row).lastrowid
                except (sqlite3.Error, OSError) as error:
                    _log.error("%s", self._unusable(error))
                else:
                    self._size += 1
                    return number or 0
            self._unwritten.append(row)
        return 0

    def later(self, entry: Entry) -> None:
        """Take an entry from a finaliser: takes no lock, writes nothing yet."""
        self._later.put(entry)

    def check_room(self) -> None:
        """Refuse a new call where its ending could not be kept.

        Raises:
            TapPassConnectionError: the outbox is full, or the disk takes nothing; nothing ran.
        """
        if self._size >= self.limit:
            raise TapPassConnectionError(
                f"the outbox {self.path} is full: {self._size} endings wait for a control plane that does not take "
                f"them; nothing ran; see that it runs and can be reached, or raise {LIMIT} ({self.limit})"
            )
        if self._unwritten:
            self.write_out()

    def write_out(self) -> None:
        """Write what waits in memory.

        Raises:
            TapPassConnectionError: the disk does not take it.
        """
        while True:
            try:
                self.append(self._later.get_nowait())
            except Empty:
                break
        with self._lock:
            while self._unwritten:
                try:
                    self._open().execute(_APPEND, self._unwritten[0])
                except (sqlite3.Error, OSError) as error:
                    raise self._unusable(error) from error
                self._unwritten.popleft()
                self._size += 1

    def batch(self, limit: int, without: Collection[str] = ()) -> list[tuple[int, str, bytes]]:
        """Return the oldest entries (number, session, JSON), leaving some sessions out."""
        held = ",".join("?" * len(without))
        query = f"SELECT id, session_id, body FROM entry WHERE session_id NOT IN ({held}) ORDER BY id LIMIT ?"  # noqa: S608
        with self._lock:
            return self._open().execute(query, (*without, limit)).fetchall()

    def delivered(self, numbers: Collection[int]) -> None:
        """Remove what the plane has acknowledged; its bytes are overwritten."""
        with self._lock:
            connection = self._open()
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("DELETE FROM entry WHERE id = ?", [(number,) for number in numbers])
            self._size = self._span(connection)
            if not self._size:
                # The write-ahead log still holds the bytes.
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def set_aside(self, number: int, reason: str) -> None:
        """Put an entry that the plane will never take where it holds nothing up, and say so."""
        with self._lock:
            connection = self._open()
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(
                    "INSERT INTO refused SELECT id, session_id, body, ? FROM entry WHERE id = ?", (reason, number)
                )
                connection.execute("DELETE FROM entry WHERE id = ?", (number,))
            self._size = self._span(connection)
        _log.error("the control plane refused an ending, which is kept in %s: %s", self.path, reason)

    def first(self) -> int:
        """Return the number of the oldest entry, 0 if none waits; other processes may deliver too."""
        with self._lock:
            first, last = self._open().execute(_ENDS).fetchone()
            self._size = last - first + 1 if last else 0
        return first or 0

    def last(self) -> int:
        """Return the number of the newest entry, 0 if none waits."""
        with self._lock:
            return self._open().execute(_ENDS).fetchone()[1] or 0

    def left(self) -> int:
        """Return how many entries wait, in the file or for the disk."""
        with self._lock:
            return int(self._open().execute("SELECT count(*) FROM entry").fetchone()[0]) + len(self._unwritten)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._drop()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Made by us, so that nobody else may read it from the start; SQLite gives its log the same mode.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("PRAGMA secure_delete = ON").fetchall()
                connection.executescript(_TABLES)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @staticmethod
    def _span(connection: sqlite3.Connection) -> int:
        # Entries leave in order, so this counts them, in no time.
        first, last = connection.execute(_ENDS).fetchone()
        return last - first + 1 if last else 0

    def _unusable(self, error: Exception) -> TapPassConnectionError:
        return TapPassConnectionError(
            f"the outbox {self.path} cannot be written ({error}); nothing ran; free the disk or make it writable, "
            f"or name another folder in {FOLDER}"
        )

    # An SQLite connection may not be carried over a fork.

    def before_fork(self) -> None:
        """Close the connection, and keep others from opening it meanwhile."""
        if self._lock.rest():
            self._drop()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.go_on()

    def after_fork_in_child(self) -> None:
        """Go on with locks and queues of its own; what waits in memory is the parent's."""
        self._lock = forking.Lock()
        forking.leak(self._connection)
        self._connection = None
        self._later = SimpleQueue()
        self._unwritten = deque()


def _session_of(entry: Entry) -> str:
    match entry:
        case Ended():
            return entry.ending.session_id
        case Closing():
            return entry.session_id
