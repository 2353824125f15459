"""The store on PostgreSQL: any number of processes, each writing what its callers want in one transaction at a time."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from tappass import forking
from tappass.engine.store import postgres_migrate
from tappass.engine.store.ahead import Ask
from tappass.engine.store.erasing import erase
from tappass.engine.store.flusher import Flusher
from tappass.engine.store.group import Job
from tappass.engine.store.leaving import open_stores
from tappass.engine.store.listeners import Listeners
from tappass.engine.store.notify import Ear
from tappass.engine.store.port import OnChange, Tx
from tappass.engine.store.postgres_link import Address, Pool
from tappass.engine.store.postgres_reading import PostgresReader
from tappass.engine.store.postgres_writing import Writing
from tappass.engine.store.reading import DEFAULT_ORG, Reader
from tappass.engine.store.transaction import place_of
from tappass.errors import TapPassConnectionError
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock, Ids

T = TypeVar("T")

_WRITERS, _READERS = 4, 4

_log = logging.getLogger("tappass.store")


class Shared:
    """What the views of one database share in a process."""

    def __init__(self, dsn: str, clock: Clock, ids: Ids) -> None:
        self.address = Address(dsn)
        postgres_migrate.prepare(self.address)
        self.clock, self.ids = clock, ids
        self.writers, self.readers = Pool(self.address, _WRITERS), Pool(self.address, _READERS)
        self.listeners = Listeners()
        self.ear = Ear(self.address, self.listeners)
        self.views: dict[str, PostgresStore] = {}
        self.closed = False
        self.renew()

    def renew(self) -> None:
        """Start afresh: in a fork's child."""
        self.mutex = threading.Lock()
        self.pid = os.getpid()

    def leak(self) -> None:
        """Let go of the parent's connections, once for all views."""
        if self.pid != os.getpid():
            self.renew()
            self.writers.leak()
            self.readers.leak()
            self.ear.leak()


class PostgresStore:
    """Rows and leaves of one organisation in a PostgreSQL database.

    Args:
        dsn: `postgresql://user:password@host:port/name`, or any libpq connection string.
        org_id: whose rows this sees; `scoped()` gives the others.
        clock: where times come from.
        ids: where ids come from.

    Attributes:
        path: the url without its password.
        read: everything that can be asked; on connections of its own, so it never waits for a writer.

    Raises:
        TapPassConnectionError: the database cannot be reached.
        TapPassConfigError: the url cannot be read, a newer tappass wrote the database, or tables may not be made.
    """

    def __init__(
        self, dsn: str, *, org_id: str = DEFAULT_ORG, clock: Clock = SYSTEM_CLOCK, ids: Ids = UUID_IDS
    ) -> None:
        self._view(Shared(dsn, clock, ids), org_id)
        open_stores.add(self)

    def _view(self, shared: Shared, org_id: str) -> None:
        self._shared, self._org_id = shared, org_id
        self.path = shared.address.shown
        self.read: Reader = PostgresReader(shared.address, shared.readers, org_id)
        self._closing: list[Callable[[], object]] = []
        self._children: list[Callable[[], object]] = []
        self._flusher = Flusher(self.flush)
        self._renew()
        shared.views[org_id] = self
        forking.join(self)

    def _renew(self) -> None:
        shared = self._shared
        self._writing = Writing(
            shared.address, shared.writers, self._org_id, shared.clock, shared.ids, on_outage=self._arm
        )

    def _arm(self) -> None:
        if not self._flusher.armed:
            self._flusher.arm()

    def scoped(self, org_id: str) -> PostgresStore:
        """Return this database as one organisation sees it: of other ones no row, whatever is asked."""
        with self._shared.mutex:
            if (known := self._shared.views.get(org_id)) is None:
                known = PostgresStore.__new__(PostgresStore)
                known._view(self._shared, org_id)
            return known

    def run(self, fn: Callable[[Tx], T], *, ahead: Sequence[Ask] = ()) -> T:
        """Run a writing function in a transaction that other callers may share; return once that is committed.

        On any exception everything the function wrote is undone and the exception comes out; nobody else notices.

        Raises:
            TapPassConnectionError: the database cannot be written; nothing of it was.
        """
        self._stay_open()
        return self._writing.run(fn, ahead)

    def submit(self, job: Job) -> None:
        """Have a job carried out as `run` does, on a thread of this store, and whom it names told; waits for nothing.

        Raises:
            TapPassConnectionError: the store is closed.
        """
        self._stay_open()
        self._writing.submit(job)

    def _stay_open(self) -> None:
        if self._shared.closed:
            raise TapPassConnectionError(f"cannot write the audit record to {self.path}: it was closed; nothing ran")

    def later(self, fn: Callable[[Tx], object], *, ahead: Sequence[Ask] = ()) -> None:
        """Queue a write for the next transaction, or for 50 ms from now; takes no lock and raises nothing."""
        self._writing.later(fn, ahead)
        self._arm()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            TapPassConnectionError: the database cannot be written; everything still waits.
        """
        if self._writing.is_idle() or self._writing.is_inside():
            return
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
        """Return at once: what PostgreSQL has committed survives power loss."""

    def on_change(self, callback: OnChange) -> Callable[[], None]:
        """Call `callback(org_id, topic)`, on a thread of its own, after any server changed something."""
        end = self._shared.listeners.add(callback)
        self._shared.ear.start()
        return end

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
        """Write what waits, call what asked for it, let go of the database, for every view; safe to repeat.

        Raises:
            TapPassConnectionError: what waits could not be written, and is lost with this process.
        """
        shared = self._shared
        if shared.closed or shared.pid != os.getpid():
            return
        views = list(shared.views.values())
        try:
            for view in views:
                view._flusher.stop()
                view.flush()
            for action in [action for view in views for action in view._closing]:
                action()
        finally:
            shared.closed = True
            shared.ear.stop()
            shared.writers.close()
            shared.readers.close()

    def __enter__(self) -> PostgresStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def before_fork(self) -> None:
        """Do nothing: what waits stays with the parent, and so do its connections."""

    def after_fork_in_parent(self) -> None:
        """Do nothing."""

    def after_fork_in_child(self) -> None:
        """Start afresh: what waits, and every connection, belongs to the parent."""
        self._shared.leak()
        self._renew()
        self._flusher.reset()
        for action in self._children:
            action()


def _nothing(tx: Tx) -> None:
    """Write nothing beyond what waits."""
