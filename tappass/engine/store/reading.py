"""What can be asked of a store: on a connection of its own, in pages, so that nothing ever waits for a reader."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from tappass import forking
from tappass.engine.store.connection import Link
from tappass.engine.store.dialect import SQLITE
from tappass.engine.store.outage import cannot_read, is_outage
from tappass.engine.store.transaction import place_of
from tappass.wire.events import AuditEvent

DEFAULT_ORG, DEFAULT_PROJECT = "org_local", "prj_local"

Rows = list[tuple[Any, ...]]

_decode_event = msgspec.json.Decoder(AuditEvent).decode
_PAGE = 1000


class LogHead(msgspec.Struct, frozen=True, kw_only=True):
    """Where a log stands; `frontier` as in `audit.merkle`."""

    log_no: int
    log_id: str
    org_id: str
    epoch: int
    size: int
    frontier: bytes


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A session as the database holds it; `open_calls` counts its decisions without an ending."""

    session_id: str
    parent: str
    agent_uuid: str
    pipeline_uuid: str
    kind: str
    name: str
    mode: str
    tier: str
    status: str
    implicit: int
    opened_at: str
    closed_at: str
    opened_seq: int | None
    closed_seq: int | None
    open_calls: int


class OpenCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that was decided and has no ending yet: still running, or lost in a crash."""

    task_id: str
    session_id: str
    decided_seq: int


_SESSION = (
    "SELECT session_id, parent, agent_uuid, pipeline_uuid, kind, name, mode, tier, status, implicit, opened_at,"
    " closed_at, opened_seq, closed_seq, 0 FROM session"
)
_KEY = "SELECT key_id, org_id, project_id, agent_uuid, person_id, digest, scopes, label, expires_at, revoked_at FROM "
_ORGANISATIONS = "SELECT org_id, name, created_at FROM"
# Of the calls without an ending, those that were let run.
_OPEN = (
    "SELECT unended.task_id, unended.session_id, max(leaf.seq) FROM (SELECT session_id, task_id FROM leaf"
    " WHERE task_id <> ''{} GROUP BY session_id, task_id HAVING count(CASE WHEN type = 'call.ended' THEN 1 END) = 0)"
    " AS unended"
    " JOIN leaf ON leaf.session_id = unended.session_id AND leaf.task_id = unended.task_id"
    " AND leaf.type = 'call.decided' WHERE {}"
    " GROUP BY unended.session_id, unended.task_id ORDER BY unended.task_id LIMIT ?"
)


class Reader:
    """Questions to one store.

    Attributes:
        dialect: what its database wants other words for.
    """

    dialect = SQLITE

    def __init__(self, link: Link, instead: Callable[[str, tuple[object, ...]], Rows] | None) -> None:
        self._link, self._instead = link, instead
        self._lock = forking.Lock()
        self._connection: sqlite3.Connection | None = None

    def row(self, sql: str, params: Sequence[object] = ()) -> tuple[Any, ...] | None:
        """Return the first row of a SELECT, or None."""
        rows = self.query(sql, params)
        return rows[0] if rows else None

    def query(self, sql: str, params: Sequence[object] = ()) -> Rows:
        """Return all rows of a SELECT (`?` parameters).

        Raises:
            TapPassConnectionError: the database cannot be read.
        """
        if self._instead is not None:
            return self._instead(sql, tuple(params))
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._link.connect()
                    self._connection.execute("PRAGMA query_only = 1")
                return self._connection.execute(sql, params).fetchall()
            except sqlite3.Error as error:
                if not is_outage(error):
                    raise
                self._close()
                raise cannot_read(self._link.path, error) from error

    def events(
        self,
        *,
        org_id: str = DEFAULT_ORG,
        session_id: str = "",
        task_id: str = "",
        agent_uuid: str = "",
        pipeline_uuid: str = "",
        type: str = "",  # noqa: A002 - the name of the field
        after: int = -1,
        limit: int = 200,
    ) -> list[AuditEvent]:
        """Return the next events of a log in order, those beyond `after`, that match every filter given."""
        given = (session_id, task_id, agent_uuid, pipeline_uuid, type)
        names = ("session_id", "task_id", self.dialect.agent_uuid, self.dialect.pipeline_uuid, "type")
        wanted = [(name, value) for name, value in zip(names, given, strict=True) if value]
        clauses = "".join(f" AND {name} = ?" for name, _ in wanted)
        sql = f"SELECT bytes FROM leaf WHERE place > ? AND place < ?{clauses} ORDER BY place LIMIT ?"  # noqa: S608
        head = self.head(org_id)
        if head is None:
            return []
        bounds = (place_of(head.log_no, after), place_of(head.log_no + 1, 0))
        rows = self.query(sql, (*bounds, *(value for _, value in wanted), limit))
        return [_decode_event(row[0]) for row in rows]

    def all_events(self, *, org_id: str = DEFAULT_ORG) -> Iterator[AuditEvent]:
        """Yield every event of a log in order, a page at a time."""
        return (_decode_event(leaf) for _, leaf, _ in self.leaves(org_id=org_id))

    def leaves(
        self, *, org_id: str = DEFAULT_ORG, start: int = 0, end: int | None = None
    ) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield `(seq, bytes, hash)` as stored, from `start` up to and without `end`, a page at a time."""
        head = self.head(org_id)
        if head is None:
            return
        stop = head.size if end is None else min(end, head.size)
        sql = "SELECT seq, bytes, hash FROM leaf WHERE place >= ? AND place < ? ORDER BY place LIMIT ?"
        while start < stop:
            rows = self.query(sql, (place_of(head.log_no, start), place_of(head.log_no, stop), _PAGE))
            yield from rows
            if len(rows) < _PAGE:
                return
            start = rows[-1][0] + 1

    def contents(
        self, *, org_id: str = DEFAULT_ORG, start: int = 0, end: int | None = None
    ) -> dict[int, tuple[bytes, bytes]]:
        """Return `seq -> (salt, body)` of the contents still stored in a stretch of the log."""
        head = self.head(org_id)
        if head is None:
            return {}
        sql = "SELECT seq, salt, body FROM leaf WHERE place >= ? AND place < ? AND body IS NOT NULL"
        stop = head.size if end is None else min(end, head.size)
        rows = self.query(sql, (place_of(head.log_no, start), place_of(head.log_no, stop)))
        return {seq: (salt, body) for seq, salt, body in rows}

    def content(self, seq: int, *, org_id: str = DEFAULT_ORG) -> bytes | None:
        """Return the stored content of one event; None if none was stored or it was erased."""
        found = self.contents(org_id=org_id, start=seq, end=seq + 1).get(seq)
        return found[1] if found else None

    def head(self, org_id: str = DEFAULT_ORG) -> LogHead | None:
        """Return where an organisation's log stands; None before its first event."""
        heads = [head for head in self.heads() if head.org_id == org_id]
        return heads[0] if heads else None

    def organisations(self) -> Rows:
        """Return id, name and time of creation of every organisation, whichever this store is scoped to."""
        return self.query(f"{_ORGANISATIONS} {self.dialect.organisations} ORDER BY created_at, org_id")

    def heads(self) -> list[LogHead]:
        """Return where every log stands."""
        rows = self.query("SELECT log_no, log_id, org_id, epoch, size, frontier FROM log ORDER BY log_no")
        return [LogHead(**dict(zip(LogHead.__struct_fields__, row, strict=True))) for row in rows]

    def checkpoints(self, *, org_id: str = DEFAULT_ORG) -> list[str]:
        """Return the signed checkpoints of a log, oldest first."""
        sql = "SELECT note FROM checkpoint WHERE log_no = (SELECT log_no FROM log WHERE org_id = ?) ORDER BY size"
        return [row[0] for row in self.query(sql, (org_id,))]

    def sessions(
        self, *, org_id: str = DEFAULT_ORG, agent_uuid: str = "", before: str = "", limit: int = 50
    ) -> list[SessionRow]:
        """Return sessions, newest first; `before` is the `opened_at` of the last one of the page before."""
        sql = (
            f"{_SESSION} WHERE org_id = ? AND (? = '' OR agent_uuid = ?) AND (? = '' OR opened_at < ?)"
            " ORDER BY opened_at DESC, session_id DESC LIMIT ?"
        )
        rows = self.query(sql, (org_id, agent_uuid, agent_uuid, before, before, limit))
        return [self._session(row) for row in rows]

    def session(self, session_id: str) -> SessionRow | None:
        """Return one session, or None."""
        rows = self.query(f"{_SESSION} WHERE session_id = ?", (session_id,))
        return self._session(rows[0]) if rows else None

    def _session(self, row: tuple[Any, ...]) -> SessionRow:
        known = SessionRow(**dict(zip(SessionRow.__struct_fields__, row, strict=True)))
        return msgspec.structs.replace(
            known, open_calls=len(self.open_calls(session_id=known.session_id, limit=10_000))
        )

    def open_calls(self, *, session_id: str = "", limit: int = 1000) -> list[OpenCall]:
        """Return calls without an ending, oldest first, of one session or of all."""
        sql = _OPEN.format(" AND session_id = ?" if session_id else "", self.dialect.decided("allow"))
        rows = self.query(sql, (session_id, limit) if session_id else (limit,))
        return [OpenCall(task_id=row[0], session_id=row[1], decided_seq=row[2]) for row in rows]

    def api_key(self, digest: bytes) -> tuple[Any, ...] | None:
        """Return the row of the api key with that digest, whichever organisation's it is (see `credentials`)."""
        return self.row(_KEY + self.dialect.key_by_digest, (digest,))

    def close(self) -> None:
        """Let go of the connection; the next question opens another."""
        with self._lock:
            self._close()

    def before_fork(self) -> None:
        """Close the connection and hold the lock."""
        if self._lock.rest():
            self._close()

    def after_fork_in_parent(self) -> None:
        """Let those go on who wait for the lock: they wait for this one, not for a new one."""
        self._lock.go_on()

    def after_fork_in_child(self) -> None:
        """Start afresh: who held or awaited the lock is not here."""
        self._lock = forking.Lock()
        forking.leak(self._connection)
        self._connection = None

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
