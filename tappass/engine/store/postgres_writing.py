"""Writing to one organisation's log on PostgreSQL: what waits first, then what callers want, all in one transaction."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

import psycopg

from tappass.engine.store.ahead import Ask
from tappass.engine.store.group import Group, Job
from tappass.engine.store.loss import Lost
from tappass.engine.store.port import Tx
from tappass.engine.store.postgres_link import Address, Connection, Pool, cannot_record, is_outage
from tappass.engine.store.postgres_tx import PostgresTx, SpoiltError
from tappass.errors import TapPassConnectionError
from tappass.wire.events import AuditEvent
from tappass.wire.ids import Clock, Ids, rfc3339

T = TypeVar("T")
Ended = list[tuple[Job, Any, BaseException | None]]

# So many deferred writes share a transaction: after an outage there may be a million.
_WAITING_AT_ONCE = 2000

_log = logging.getLogger("tappass.store")


class Deferred(NamedTuple):
    """A write that waits."""

    fn: Callable[[Tx], object]
    ahead: Sequence[Ask] = ()


class _UnwritableError(Exception):
    """A deferred write fails by its own fault."""


class _Doubt(NamedTuple):
    """A commit without an answer: how many deferred writes it held, whose jobs, and a leaf that tells."""

    waiting: int
    ended: Ended
    last: tuple[int, bytes]


class Writing:
    """What one organisation's callers write, in this process.

    Attributes:
        waiting: deferred writes that are not committed, in order; kept while the database is away.
    """

    def __init__(
        self, address: Address, pool: Pool, org_id: str, clock: Clock, ids: Ids, on_outage: Callable[[], object]
    ) -> None:
        self._address, self._pool, self._org_id = address, pool, org_id
        self._clock, self._ids, self._on_outage = clock, ids, on_outage
        self._group = Group(self._carry_out)
        self._owner = 0
        self._queue: SimpleQueue[Deferred] = SimpleQueue()
        self._seen: tuple[str, int] = ("", 0)
        self._doubt: _Doubt | None = None
        self._attempted: AuditEvent | None = None
        self.waiting: list[Deferred] = []

    def run(self, fn: Callable[[Tx], T], ahead: Sequence[Ask]) -> T:
        """Have a function run in a transaction; return its result once that is committed."""
        if self.is_inside():
            raise RuntimeError("PostgresStore.run() was called inside a transaction; use the Tx it passes")
        return self._group.run(fn, ahead)

    def submit(self, job: Job) -> None:
        """Have a job carried out on a thread of this process's own."""
        self._group.submit(job)

    def later(self, fn: Callable[[Tx], object], ahead: Sequence[Ask]) -> None:
        """Queue a write for the next transaction."""
        self._queue.put(Deferred(fn, ahead))

    def is_inside(self) -> bool:
        """Tell whether this thread is in a transaction."""
        return self._owner == threading.get_ident()

    def is_idle(self) -> bool:
        """Tell whether nothing waits and nothing is being written."""
        return not (self.waiting or self._owner) and self._queue.empty()

    def _carry_out(self, jobs: list[Job]) -> None:
        """End jobs, the first at least; what waits goes before them."""
        self._owner = threading.get_ident()
        try:
            self._gather()
            while len(self.waiting) > _WAITING_AT_ONCE:
                self._isolating(self.waiting[:_WAITING_AT_ONCE], [])
            self._isolating(self.waiting, jobs, joined=True)
        except (psycopg.Error, TapPassConnectionError) as error:
            for job in jobs:
                if not job.done:
                    job.end(error=self._refusal(error))
            if self.waiting or not self._queue.empty():
                self._on_outage()
        finally:
            self._owner = 0

    def _refusal(self, error: BaseException) -> TapPassConnectionError:
        """Return the error for one caller: raised in its own thread, it is nobody else's."""
        refused = (
            cannot_record(self._address.shown, error)
            if isinstance(error, psycopg.Error)
            else TapPassConnectionError(str(error))
        )
        refused.__cause__ = error
        return refused

    def _gather(self) -> list[Deferred]:
        """Have what was queued wait; return that."""
        before = len(self.waiting)
        try:
            while not self._queue.empty():
                self.waiting.append(self._queue.get_nowait())
        except Empty:
            pass
        return self.waiting[before:]

    def _isolating(self, waiting: list[Deferred], jobs: list[Job], *, joined: bool = False) -> None:
        try:
            self._transact(waiting, jobs, joined=joined)
        except (psycopg.Error, SpoiltError, _UnwritableError) as error:
            if is_outage(error):
                raise
            self._one_by_one(len(waiting), jobs)

    def _one_by_one(self, count: int, jobs: list[Job]) -> None:
        """Find whose fault it was: a statement that fails takes its transaction with it."""
        left = len(self.waiting) - count
        while len(self.waiting) > left:
            try:
                self._transact(self.waiting[:1], [])
            except (psycopg.Error, _UnwritableError) as error:
                if is_outage(error):
                    raise
                self._replace(error)
        for job in jobs:
            try:
                if not job.done:
                    self._transact([], [job])
            except SpoiltError as error:
                job.end(error=error.__cause__)
            except psycopg.Error as error:
                if is_outage(error):
                    raise
                job.end(error=error)

    def _replace(self, error: BaseException) -> None:
        """Put a leaf that says what was lost in the place of a write that can never succeed."""
        cause = error.__cause__ or error
        _log.error("a deferred audit record cannot be written and is given up", exc_info=cause)
        if self._attempted is None or isinstance(self.waiting[0].fn, Lost):
            del self.waiting[0]
        else:
            lost = Lost(self._attempted, rfc3339(self._clock.time_ns()), type(cause).__name__)
            self.waiting[0] = Deferred(lost)

    def _transact(self, waiting: list[Deferred], jobs: list[Job], *, joined: bool = False) -> None:
        """Commit what is given; once more where the connection was dead and nothing can be written twice."""
        for again in (True, False):
            connection: Connection | None = None
            self._committing = False
            try:
                with self._pool.borrowed() as (connection, _):
                    self._attempt(connection, list(waiting), jobs, joined=joined)
                return
            except psycopg.Error as error:
                dead = connection is not None and connection.closed and is_outage(error)
                if not (again and dead) or (self._committing and self._doubt is None):
                    raise
                # The server was restarted, perhaps: what else is kept open is as dead.
                self._pool.drop()

    def _attempt(self, connection: Connection, waiting: list[Deferred], jobs: list[Job], *, joined: bool) -> None:
        ended: Ended = []
        tx: PostgresTx | None = None
        try:
            with connection.pipeline() as pipeline:
                tx = self._begin(connection, pipeline)
                del waiting[: self._resolve_doubt(tx)]
                tx.ask_ahead(chain.from_iterable([*(w.ahead for w in waiting), *(job.ahead for job in jobs)]))
                tx.ready()
                if joined and (late := self._group.join(jobs)):
                    # Who came while other servers wrote need not wait for the next turn. What they put off before goes
                    # before them, as ever: it was queued by then.
                    more = self._gather()
                    waiting += more
                    tx.ask_ahead(chain.from_iterable([*(w.ahead for w in more), *(job.ahead for job in late)]))
                self._write_waiting(tx, waiting)
                _attempt_jobs(tx, jobs, ended)
                self._committing = True
                tx.finish()
        except BaseException as error:
            self._undo(connection, tx, len(waiting), ended, error)
            raise
        del self.waiting[: len(waiting)]
        if tx.head is not None:
            self._seen = (tx.head.log_id, tx.head.size)
        for job, result, failure in ended:
            job.end(result=result, error=failure)

    def _begin(self, connection: Connection, pipeline: psycopg.Pipeline) -> PostgresTx:
        return PostgresTx(
            connection,
            pipeline,
            self._org_id,
            seen=self._seen,
            shown=self._address.shown,
            clock=self._clock,
            ids=self._ids,
        )

    def _resolve_doubt(self, tx: PostgresTx) -> int:
        """Find out whether a commit without an answer was written: nothing may be written twice.

        Returns:
            How many of the deferred writes that wait are in the log already; they wait no more.
        """
        doubt = self._doubt
        if doubt is None:
            return 0
        written = tx.written(doubt.last)
        self._doubt = None
        if not written:
            return 0
        del self.waiting[: doubt.waiting]
        for job, result, failure in doubt.ended:
            if not job.done:
                job.end(result=result, error=failure)
        return doubt.waiting

    def _write_waiting(self, tx: PostgresTx, waiting: list[Deferred]) -> None:
        for write in waiting:
            try:
                tx.alone(write.fn)
            except (psycopg.Error, TapPassConnectionError):
                raise
            except Exception as error:
                raise _UnwritableError from (error.__cause__ if isinstance(error, SpoiltError) else error)

    def _undo(
        self, connection: Connection, tx: PostgresTx | None, count: int, ended: Ended, error: BaseException
    ) -> None:
        """Leave no transaction open, and know of everything whether it was written."""
        self._attempted = tx.attempted if tx is not None else None
        fault = isinstance(error, Exception) and not is_outage(error)
        if self._committing and tx is not None and tx.last is not None and not fault:
            self._doubt = _Doubt(count, ended, tx.last)
        if not fault or isinstance(error, psycopg.Error):
            connection.close()
        else:
            connection.rollback()


def _attempt_jobs(tx: PostgresTx, jobs: list[Job], ended: Ended) -> None:
    for job in jobs:
        if job.done:
            continue
        try:
            ended.append((job, tx.alone(job.fn), None))
        except (psycopg.Error, SpoiltError):
            raise
        except Exception as error:
            ended.append((job, None, error))
        if tx.changes:
            # What this caller changed others may remember: only from the next transaction on, when it is committed.
            return
