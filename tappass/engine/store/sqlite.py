"""The store on SQLite: one writer at a time, on the caller's thread, any number of processes on one file."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

from tappass import forking
from tappass.engine.store.ahead import Ask
from tappass.engine.store.connection import MEMORY, Link, closed
from tappass.engine.store.erasing import erase
from tappass.engine.store.flusher import Flusher
from tappass.engine.store.leaving import open_stores
from tappass.engine.store.listeners import POLL_S, Listeners, Poll
from tappass.engine.store.loss import Lost
from tappass.engine.store.outage import cannot_record, is_outage, keeps_connection
from tappass.engine.store.port import OnChange, Tx
from tappass.engine.store.reading import DEFAULT_ORG, Reader
from tappass.engine.store.transaction import SqliteTx, place_of
from tappass.errors import TapPassConfigError, TapPassConnectionError
from tappass.wire.events import AuditEvent
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock, Ids, rfc3339

T = TypeVar("T")
Write = Callable[[Tx], object]

_log = logging.getLogger("tappass.store")


class _UnwritableError(Exception):
    """A deferred write fails by its own fault; `index` is its place among those that wait."""

    def __init__(self, index: int, event: AuditEvent | None) -> None:
        super().__init__(index)
        self.index, self.event = index, event


class SqliteStore:
    """Rows and leaves in one SQLite file (WAL), or in memory for tests.

    Args:
        path: the database file, or `:memory:`.
        synchronous: `normal` survives crashes of processes; `full` also power loss, at 100 µs more a transaction.
        clock: where times come from.
        ids: where ids come from.
        busy_timeout_s: how long to wait for another process's transaction.

    Attributes:
        read: everything that can be asked; on a connection of its own, so it never waits for a writer.

    Raises:
        TapPassConnectionError: the file cannot be opened or created.
        TapPassConfigError: `synchronous` is unknown, or a newer tappass wrote the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: str = "normal",
        clock: Clock = SYSTEM_CLOCK,
        ids: Ids = UUID_IDS,
        busy_timeout_s: float = 30.0,
    ) -> None:
        if synchronous not in ("normal", "full"):
            raise TapPassConfigError(f"synchronous must be 'normal' or 'full', not {synchronous!r}")
        self._clock, self._ids = clock, ids
        with forking.opening:
            self._open(Link(path, synchronous, busy_timeout_s))

    def _open(self, link: Link) -> None:
        self._link, self.path = link, link.path
        self._seen: dict[str, tuple[str, int]] = {}
        self._closing: list[Callable[[], object]] = []
        self._children: list[Callable[[], object]] = []
        self._closed = False
        self._listeners, self._polls = Listeners(), False
        self._flusher = Flusher(self.flush)
        self.read = Reader(self._link, self._on_writer if self.path == MEMORY else None)
        self._renew()
        forking.join(self)
        open_stores.add(self)

    def _renew(self) -> None:
        self._lock = forking.Lock()
        self._queue: SimpleQueue[Write] = SimpleQueue()
        self._waiting: list[Write] = []
        self._doubt: tuple[int, tuple[int, bytes]] | None = None
        self._pid = os.getpid()

    def run(self, fn: Callable[[Tx], T], *, ahead: Sequence[Ask] = ()) -> T:
        """Run a writing function in one transaction, after what waits; return its result once that is committed.

        On any exception everything the function wrote is undone and the exception comes out; what waited still does.

        Raises:
            TapPassConnectionError: the database cannot be written; nothing of it was.
        """
        if self._pid != os.getpid():
            self.after_fork_in_child()
        if self._lock.mine:
            raise RuntimeError("SqliteStore.run() was called inside a transaction; use the Tx it passes")
        with self._lock:
            result = self._isolating(fn)
        if not self._listeners.committed.empty():
            self._listeners.tell_committed()
        return result

    def later(self, fn: Write, *, ahead: Sequence[Ask] = ()) -> None:
        """Queue a write for the next `run`, or for 50 ms from now; takes no lock and raises nothing.

        Made for endings and for finalisers. Kept, in order, while the database cannot be written.
        """
        self._queue.put(fn)
        if not self._flusher.armed:
            self._flusher.arm()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            TapPassConnectionError: the database cannot be written; everything still waits.
        """
        if self._lock.mine:
            return
        # A run in another thread may hold what was queued: its lock is what tells that it is written.
        with self._lock:
            idle = self._queue.empty() and not self._waiting
        if not idle:
            self.run(_nothing)

    def key_by_digest(self, digest: bytes) -> tuple[object, ...] | None:
        """Return a key's row, as `credentials.KeyRow` names its columns, whichever organisation it is of."""
        return self.read.api_key(digest)

    def erase_content(self, seqs: Iterable[int], *, org_id: str = DEFAULT_ORG) -> int:
        """Delete the content of events, for retention or on request; return how many had one. The log still verifies.

        Raises:
            TapPassConnectionError: the database cannot be written; nothing was erased.
        """
        head = self.read.head(org_id)
        places = [place_of(head.log_no, seq) for seq in seqs] if head else []
        return self.run(lambda tx: erase(tx, places))

    def sync(self) -> None:
        """Have everything committed so far survive power loss.

        Raises:
            TapPassConnectionError: the database cannot be written.
        """
        with self._lock:
            self._link.sync()

    def scoped(self, org_id: str) -> SqliteStore:
        """Return this store: one file is one installation's."""
        return self

    def on_change(self, callback: OnChange) -> Callable[[], None]:
        """Call `callback(org_id, topic)` after a change: at once of this process's, twice a second of others'."""
        if not self._polls and self.path != MEMORY:
            self._polls = True
            self._flusher.every(POLL_S, Poll(self.read, self._listeners))
        return self._listeners.add(callback)

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Call an action on the flusher's thread every so many seconds, until the store is closed."""
        self._flusher.every(seconds, action)

    def in_child(self, action: Callable[[], object]) -> None:
        """Call an action in every child that a fork makes, before it goes on."""
        self._children.append(action)

    def before_close(self, action: Callable[[], object]) -> None:
        """Call an action when the store is closed, after the last flush."""
        self._closing.append(action)

    def close(self) -> None:
        """Write what waits, call what asked for it, let go of the file; safe to repeat.

        Raises:
            TapPassConnectionError: what waits could not be written, and is lost with this process.
        """
        if self._closed or self._pid != os.getpid():
            return
        self._flusher.stop()
        try:
            self.flush()
            for action in self._closing:
                action()
        finally:
            self._closed = True
            open_stores.discard(self)
            self.read.close()
            with self._lock:
                self._link.drop()

    def __enter__(self) -> SqliteStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _isolating(self, fn: Callable[[Tx], T]) -> T:
        while True:
            try:
                return self._transact(fn)
            except _UnwritableError as fault:
                self._replace(fault)

    def _transact(self, fn: Callable[[Tx], T]) -> T:
        if self._closed:
            raise closed(self.path)
        connection, tx, committing = None, None, False
        try:
            connection = self._link.ready()
            connection.execute("BEGIN IMMEDIATE")
            if self._doubt:
                self._resolve_doubt(connection, *self._doubt)
            tx = SqliteTx(connection, self.path, self._seen, self._clock, self._ids)
            self._write_waiting(tx)
            result = fn(tx)
            tx.finish()
            committing = True
            connection.execute("COMMIT")
        except BaseException as error:
            self._undo(connection, tx if committing else None, error)
            if isinstance(error, sqlite3.Error):
                raise cannot_record(self.path, error) from error
            raise
        self._waiting.clear()
        for org_id, head in tx.heads.items():
            self._seen[org_id] = (head.log_id, head.size)
        for change in tx.changes:
            self._listeners.committed.put(change)
        return result

    def _write_waiting(self, tx: SqliteTx) -> None:
        waiting, queue = self._waiting, self._queue
        try:
            while not queue.empty():
                waiting.append(queue.get_nowait())
        except Empty:
            pass
        for index, write in enumerate(waiting):
            tx.attempted = None
            try:
                write(tx)
            except Exception as error:
                if is_outage(error) or isinstance(error, TapPassConnectionError):
                    raise
                raise _UnwritableError(index, tx.attempted) from error

    def _replace(self, fault: _UnwritableError) -> None:
        """Put a leaf that says what was lost in the place of a write that can never succeed."""
        error = fault.__cause__
        _log.error("a deferred audit record cannot be written and is given up", exc_info=error)
        if fault.event is None or isinstance(self._waiting[fault.index], Lost):
            del self._waiting[fault.index]
        else:
            at = rfc3339(self._clock.time_ns())
            self._waiting[fault.index] = Lost(fault.event, at, type(error).__name__)

    def _undo(self, connection: sqlite3.Connection | None, committed: SqliteTx | None, error: BaseException) -> None:
        """Leave no transaction open, and know of everything that waits whether it was written."""
        if connection is None:
            return
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            elif committed is not None and not isinstance(error, sqlite3.Error):
                # An interrupt right after the commit.
                self._waiting.clear()
            elif committed is not None and committed.last is not None:
                self._doubt = (len(self._waiting), committed.last)
        except sqlite3.Error:
            self._link.drop()
        if isinstance(error, sqlite3.Error) and not keeps_connection(error):
            self._link.drop()
        if self._waiting and not self._flusher.armed:
            self._flusher.arm()

    def _resolve_doubt(self, connection: sqlite3.Connection, count: int, last: tuple[int, bytes]) -> None:
        """Find out whether a commit that failed was written all the same: nothing may be written twice."""
        sql = "SELECT 1 FROM leaf WHERE place = ? AND bytes = ?"
        if connection.execute(sql, last).fetchone():
            del self._waiting[:count]
        self._doubt = None

    def _on_writer(self, sql: str, params: tuple[object, ...]) -> list[tuple[object, ...]]:
        """Read where there is only one connection: in memory."""
        with self._lock:
            return self._link.ready().execute(sql, params).fetchall()

    def before_fork(self) -> None:
        """Come to rest: nothing waits, no connection is open, the locks are held."""
        try:
            self.read.before_fork()
        finally:
            if self._lock.rest():
                self._come_to_rest()

    def _come_to_rest(self) -> None:
        try:
            if not self._closed and (self._waiting or not self._queue.empty()):
                self._isolating(_nothing)
        except TapPassConnectionError as error:
            _log.warning("%s; what waits stays with the parent of this fork", error)
        finally:
            self._link.drop()

    def after_fork_in_parent(self) -> None:
        """Go on; the connection is opened anew by the next use."""
        self._lock.go_on()
        self.read.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Start afresh: what waits belongs to the parent, and so does a connection still open."""
        self._link.leak()
        self._renew()
        self._flusher.reset()
        self.read.after_fork_in_child()
        for action in self._children:
            action()


def _nothing(tx: Tx) -> None:
    """Write nothing beyond what waits."""
