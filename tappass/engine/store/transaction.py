"""One transaction: the rows and the leaves that are written together or not at all."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from tappass.engine.audit.merkle import leaf_hash, push
from tappass.engine.store.outage import went_back
from tappass.wire.codec import canonical
from tappass.wire.events import AuditEvent
from tappass.wire.ids import Clock, Ids, rfc3339

Row: TypeAlias = tuple[int, int, int, str, str, str, bytes, bytes, bytes | None, bytes | None]

_LEAF = (
    "INSERT INTO leaf (place, log_no, seq, type, session_id, task_id, hash, bytes, salt, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_HEAD = "SELECT log_no, log_id, epoch, size, frontier, control FROM log WHERE org_id = ?"
_NEW_LOG = "INSERT INTO log (log_id, org_id, epoch, size, frontier, created_at) VALUES (?, ?, 1, 0, x'', ?)"


def place_of(log_no: int, seq: int) -> int:
    """Return the key of a leaf."""
    return (log_no << 40) + seq


class Head:
    """Where a log stands within a transaction: the next leaf's `seq` is `size`."""

    __slots__ = ("control", "epoch", "frontier", "log_id", "log_no", "size")

    def __init__(self, log_no: int, log_id: str, epoch: int, size: int, frontier: bytes, control: int) -> None:
        self.log_no, self.log_id, self.epoch, self.size, self.frontier = log_no, log_id, epoch, size, frontier
        self.control = control

    def next(self, event: AuditEvent, content: bytes | None) -> tuple[AuditEvent, Row]:
        """Return an event as it would stand next in the log, and its row."""
        size, salt, digest = self.size, None, None
        if content is not None:
            salt = os.urandom(32)
            digest = hashlib.sha256(salt + content).hexdigest()
        event = msgspec.structs.replace(event, log_id=self.log_id, epoch=self.epoch, seq=size, content=digest)
        leaf = canonical(event)
        place, names = place_of(self.log_no, size), (event.type, event.session_id, event.task_id)
        return event, (place, self.log_no, size, *names, leaf_hash(leaf), leaf, salt, content)

    def grow(self, row: Row) -> None:
        """Count that row in."""
        self.frontier = push(self.size, self.frontier, row[6])
        self.size += 1


class SqliteTx:
    """What a writing function gets: rows by `execute`, leaves by `append`.

    Attributes:
        attempted: the event last given to `append`, written or not.
        changes: what `notify` was told, to pass on once this is committed.
        heads: where the logs written to stand, by organisation.
        last: place and bytes of the leaf last appended.
    """

    __slots__ = ("_clock", "_connection", "_ids", "_path", "_seen", "attempted", "changes", "heads", "last")

    def __init__(
        self, connection: sqlite3.Connection, path: str, seen: dict[str, tuple[str, int]], clock: Clock, ids: Ids
    ) -> None:
        self._connection = connection
        self._seen = seen
        self._clock, self._ids = clock, ids
        self._path = path
        self.heads: dict[str, Head] = {}
        self.last: tuple[int, bytes] | None = None
        self.changes: list[tuple[str, str]] = []
        self.attempted: AuditEvent | None = None

    def execute(self, sql: str, params: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement (`?` parameters) inside this transaction."""
        if not self._connection.in_transaction:
            # A full disk ends the transaction; what came after would be written alone, whatever the caller caught.
            raise sqlite3.OperationalError("the transaction has already failed")
        return self._connection.execute(sql, params)

    def put(self, sql: str, params: Sequence[Any]) -> None:
        """Run an INSERT of one row whose outcome nobody asks for."""
        self.execute(sql, params)

    def append(self, event: AuditEvent, content: bytes | None = None) -> AuditEvent:
        """Write the next leaf of the event's organisation, and its content beside it.

        Args:
            event: what happened; its `log_id`, `epoch`, `seq` and `content` are set here.
            content: the bytes to store, already redacted as configured; None stores nothing.

        Returns:
            The event as it stands in the log.
        """
        self.attempted = event
        head = self.heads.get(event.org_id) or self._head(event.org_id)
        event, row = head.next(event, content)
        self.execute(_LEAF, row)
        head.grow(row)
        self.last = (row[0], row[7])
        return event

    def next_seq(self, org_id: str) -> int:
        """Return the place in its log of the next leaf of an organisation."""
        return (self.heads.get(org_id) or self._head(org_id)).size

    def control(self, org_id: str) -> int:
        """Return the number that every change of an organisation's tiers, pins and break-glasses raises."""
        return (self.heads.get(org_id) or self._head(org_id)).control

    def controlled(self, org_id: str) -> None:
        """Raise that number, and tell whoever listens: what others know of these is old from this transaction on."""
        self.control(org_id)
        self.execute("UPDATE log SET control = control + 1 WHERE org_id = ?", (org_id,))
        self.notify(org_id, "control")

    def notify(self, org_id: str, topic: str) -> None:
        """Tell whoever listens in this process, once this is committed; other processes look by themselves."""
        self.changes.append((org_id, topic))

    def finish(self) -> None:
        """Write the heads of the logs that grew: once for each, whatever was appended."""
        for head in self.heads.values():
            self.execute(
                "UPDATE log SET size = ?, frontier = ? WHERE log_no = ?", (head.size, head.frontier, head.log_no)
            )

    def _head(self, org_id: str) -> Head:
        row = self.execute(_HEAD, (org_id,)).fetchone()
        seen_id, seen_size = self._seen.get(org_id, ("", 0))
        if seen_id and (row is None or row[1] != seen_id or row[3] < seen_size):
            raise went_back(self._path, seen_id, 0 if row is None else row[3], seen_size)
        if row is None:
            self.execute(_NEW_LOG, (self._ids.new("log"), org_id, rfc3339(self._clock.time_ns())))
            row = self.execute(_HEAD, (org_id,)).fetchone()
        head = self.heads[org_id] = Head(*row)
        return head
