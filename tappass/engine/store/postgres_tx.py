"""One transaction on PostgreSQL, shared by callers that do not see each other: leaves go out together at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import psycopg

from tappass.engine.store import bundling
from tappass.engine.store.ahead import Ahead, Ask, Shares
from tappass.engine.store.dialect import only_reads, translated
from tappass.engine.store.outage import went_back
from tappass.engine.store.port import CONTROL, Result, Tx
from tappass.engine.store.postgres_link import Connection
from tappass.engine.store.transaction import Head, Row
from tappass.wire.events import AuditEvent
from tappass.wire.ids import Clock, Ids, rfc3339

T = TypeVar("T")

CHANNEL = "tappass"

# The lock before the head is read: in READ COMMITTED each statement sees what was committed before it began.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_SCOPE = "SELECT set_config('tappass.org_id', %s, true), pg_advisory_xact_lock(hashtextextended(%s, 9620))"
_HEAD = "SELECT log_no, log_id, epoch, size, frontier, control FROM log WHERE org_id = %s"
_NEW_LOG = (
    "INSERT INTO log (log_id, org_id, epoch, size, frontier, created_at) VALUES (%s, %s, 1, 0, ''::bytea, %s)"
    " RETURNING log_no, log_id, epoch, size, frontier, control"
)
# One statement and one array a column: half the time of a statement a row, at 64 of them (docs/decisions).
_LEAVES = (
    "INSERT INTO leaf (place, log_no, seq, type, session_id, task_id, hash, bytes, salt, body)"
    " SELECT * FROM unnest(%b::int8[], %b::int8[], %b::int8[], %b::text[], %b::text[], %b::text[],"
    " %b::bytea[], %b::bytea[], %b::bytea[], %b::bytea[])"
)
_GROWN = "UPDATE log SET size = %s, frontier = %s, control = %s WHERE log_no = %s"
_TELL = "SELECT pg_notify(%s, %s)"
_THERE = "SELECT 1 FROM leaf WHERE place = %s AND bytes = %s"


class SpoiltError(Exception):
    """A caller raised after it had written rows: nothing of its transaction may stay."""


class Found:
    """What a statement found or did; it was sent, and its answer is awaited only by whoever asks for it."""

    __slots__ = ("_cursor", "_pipeline")

    def __init__(self, cursor: psycopg.Cursor[tuple[Any, ...]], pipeline: psycopg.Pipeline) -> None:
        self._cursor, self._pipeline = cursor, pipeline

    @property
    def rowcount(self) -> int:
        """How many rows were written."""
        if self._cursor.rowcount < 0:
            self._pipeline.sync()
        return self._cursor.rowcount

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""
        return self._cursor.fetchall()


class Mark(NamedTuple):
    """Where one caller began."""

    leaves: int
    changes: int
    head: tuple[int, bytes, int] | None
    last: tuple[int, bytes] | None


class PostgresTx:
    """What a writing function gets: rows by `execute`, leaves by `append`.

    Attributes:
        attempted: the event last given to `append`, written or not.
        changes: what `notify` was told; sent at the end, heard once this is committed.
        head: where the organisation's log stands; None until somebody asks.
        last: place and bytes of the leaf last appended.
    """

    def __init__(
        self,
        connection: Connection,
        pipeline: psycopg.Pipeline,
        org_id: str,
        *,
        seen: tuple[str, int],
        shown: str,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._connection, self._pipeline = connection, pipeline
        self._org_id, self._seen, self._shown = org_id, seen, shown
        self._clock, self._ids = clock, ids
        self._leaves: list[Row] = []
        self._puts: dict[str, list[Sequence[Any]]] = {}
        self._ahead = Ahead()
        self._wrote = False
        self._read = (0, b"", 0)
        self.attempted: AuditEvent | None = None
        self.changes: list[tuple[str, str]] = []
        self.head: Head | None = None
        self.last: tuple[int, bytes] | None = None
        connection.execute(_BEGIN)
        connection.execute(_SCOPE, (org_id, org_id))
        self._reading_head = connection.execute(_HEAD, (org_id,))
        self._found_head: tuple[Any, ...] | None = None

    def ready(self) -> None:
        """Wait until it is this transaction's turn to write to the log."""
        self._found_head = self._reading_head.fetchone()

    def alone(self, fn: Callable[[Tx], T]) -> T:
        """Run one caller's function; where it raises, nothing of it stays.

        Raises:
            SpoiltError: it raised (the cause), but had written rows: the transaction may not be committed.
        """
        mark, self._wrote, self.attempted = self._mark(), False, None
        try:
            return fn(self)
        except psycopg.Error:
            raise
        except Exception as error:
            if self._wrote:
                # No savepoints: psycopg 3.3 mistakes what is prepared once it reads of a rollback in a pipeline.
                raise SpoiltError from error
            self._undo(mark)
            raise

    def execute(self, sql: str, params: Sequence[Any] = ()) -> Result:
        """Run one statement (`?` parameters) inside this transaction."""
        if only_reads(sql):
            if (known := self._ahead.answer(sql, params)) is not None:
                return known
        else:
            self._wrote = True
            self._ahead.written(sql, params)
        self._send_puts()
        return Found(self._connection.execute(translated(sql), params or None), self._pipeline)

    def put(self, sql: str, params: Sequence[Any]) -> None:
        """Run an INSERT of one row whose outcome nobody asks for: before the next statement, with others alike."""
        self._wrote = True
        self._ahead.written(sql, params)
        self._puts.setdefault(sql, []).append(params)

    def ask_ahead(self, asks: Iterable[Ask]) -> None:
        """Send what callers are going to ask, all at once; each finds its answer when it asks."""
        alike: dict[str, list[Ask]] = {}
        for ask in dict.fromkeys(asks):
            # No text there can hold a NUL: who asks for one in its turn is told so, and nobody else.
            if self._ahead.wants(ask) and not any(isinstance(value, str) and "\0" in value for value in ask[1]):
                alike.setdefault(ask[0], []).append(ask)
        for sql, group in alike.items():
            bundle = bundling.selected(sql, [params for _, params in group]) if len(group) > 1 else None
            if bundle is not None:
                shares = Shares(self._asked(*bundle), len(group))
                for place, ask in enumerate(group):
                    self._ahead.keep(ask, shares.of(place))
                continue
            for ask in group:
                self._ahead.keep(ask, self._asked(translated(sql), ask[1]))

    def _asked(self, sql: str, params: Sequence[Any]) -> psycopg.Cursor[tuple[Any, ...]]:
        # Planned each time, as large as its table is then: a plan that is kept from when a table was empty may take
        # any index, and then reads all that the organisation has.
        return self._connection.execute(sql, params or None, prepare=False)

    def append(self, event: AuditEvent, content: bytes | None = None) -> AuditEvent:
        """Add the next leaf of the organisation, and its content beside it; return it as it stands in the log."""
        self.attempted = event
        head = self._head_of(event.org_id)
        event, row = head.next(event, content)
        head.grow(row)
        self._leaves.append(row)
        self.last = (row[0], row[7])
        return event

    def next_seq(self, org_id: str) -> int:
        """Return the place in its log of the next leaf of an organisation."""
        return self._head_of(org_id).size

    def control(self, org_id: str) -> int:
        """Return the number that every change of an organisation's tiers, pins and break-glasses raises."""
        return self._head_of(org_id).control

    def controlled(self, org_id: str) -> None:
        """Raise that number, and tell whoever listens: what others know of these is old from this transaction on."""
        self._head_of(org_id).control += 1
        self.notify(org_id, CONTROL)

    def notify(self, org_id: str, topic: str) -> None:
        """Tell whoever listens, here and in other processes, once this is committed."""
        self.changes.append((org_id, topic))

    def written(self, last: tuple[int, bytes]) -> bool:
        """Tell whether a leaf is in the log."""
        return self._connection.execute(_THERE, last).fetchone() is not None

    def finish(self) -> None:
        """Send the leaves, the head and the commit in one go."""
        self._send_puts()
        if self.head is not None and (self._leaves or self.changes):
            if self._leaves:
                self._connection.execute(_LEAVES, tuple(map(list, zip(*self._leaves, strict=True))))
            head = self.head
            self._connection.execute(_GROWN, (head.size, head.frontier, head.control, head.log_no))
        for org_id, topic in dict.fromkeys(self.changes):
            self._connection.execute(_TELL, (CHANNEL, f"{topic} {org_id}"))
        self._connection.execute("COMMIT")

    def _send_puts(self) -> None:
        puts, self._puts = self._puts, {}
        for sql, rows in puts.items():
            if (bundle := bundling.inserted(sql, rows)) is not None:
                self._connection.execute(*bundle)
                continue
            for row in rows:
                self._connection.execute(translated(sql), row)

    def _mark(self) -> Mark:
        head = self.head
        state = (head.size, head.frontier, head.control) if head is not None else None
        return Mark(len(self._leaves), len(self.changes), state, self.last)

    def _undo(self, mark: Mark) -> None:
        del self._leaves[mark.leaves :]
        del self.changes[mark.changes :]
        self.last = mark.last
        if self.head is not None:
            # Nobody before this caller asked where the log stands: then it stands as it was read.
            self.head.size, self.head.frontier, self.head.control = mark.head or self._read

    def _head_of(self, org_id: str) -> Head:
        if org_id != self._org_id:
            raise ValueError(f"this store is `{self._org_id}`'s, and shows nothing of `{org_id}`; use `scoped()`")
        return self.head or self._read_head()

    def _read_head(self) -> Head:
        row = self._found_head
        seen_id, seen_size = self._seen
        if seen_id and (row is None or row[1] != seen_id or row[3] < seen_size):
            raise went_back(self._shown, seen_id, 0 if row is None else row[3], seen_size)
        if row is None:
            self._wrote = True
            at = rfc3339(self._clock.time_ns())
            row = self._connection.execute(_NEW_LOG, (self._ids.new("log"), self._org_id, at)).fetchone()
        assert row is not None, "an INSERT with RETURNING gives a row"
        self.head = Head(*row)
        self._read = (self.head.size, self.head.frontier, self.head.control)
        return self.head
