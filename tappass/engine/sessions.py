"""Sessions as the engine knows them: opened, looked up, closed, each on the record."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec

from tappass.engine.leaves import Leaves
from tappass.engine.pipelines import Pipeline, Pipelines
from tappass.engine.recalled import (
    OPEN,
    Open,
    Recall,
    audit_url,
    common,
    ended_metadata,
    mode_under,
    stored,
    told_of,
    within,
)
from tappass.engine.store.ahead import Ask
from tappass.engine.store.port import Store, Tx
from tappass.errors import TapPassConfigError
from tappass.wire.events import AuditEvent
from tappass.wire.ids import Clock, Ids, rfc3339
from tappass.wire.sessions import ENFORCE, OBSERVE, Opening, SessionRecord

DEFAULT_AGENT, DEFAULT_TIER = "default", "standard"
_REMEMBERED = 10_000
SUSPENDED = "suspended"
STATUSES = ("completed", "failed", SUSPENDED)

_AGENT = "SELECT agent_uuid, tier, framework FROM agent WHERE org_id = ? AND project_id = ? AND name = ?"
_NEW_AGENT = (
    "INSERT INTO agent (agent_uuid, org_id, project_id, name, tier, registered_at) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT DO NOTHING"
)
_NAME = "SELECT name FROM agent WHERE org_id = ? AND project_id = ? AND agent_uuid = ?"
_OPEN = (
    "INSERT INTO session (session_id, org_id, project_id, parent, agent_uuid, pipeline_uuid, kind, name, mode, tier,"
    " status, implicit, openings, opened_at, opened_seq, metadata)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open', ?, 1, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_STANDS = "SELECT status, openings FROM session WHERE session_id = ? AND org_id = ?"
_REOPEN = (
    "UPDATE session SET status = 'open', closed_at = '', closed_seq = NULL, pipeline_uuid = ?, openings = ?"
    " WHERE session_id = ? AND org_id = ?"
)
_CLOSE = (
    "UPDATE session SET status = ?, closed_at = ?, closed_seq = ?, metadata = ? WHERE session_id = ? AND org_id = ?"
)


class Sessions:
    """The sessions of one project; the newest are kept in memory, the others read from their rows.

    Args:
        store: where they are kept.
        pipelines: which policy they are opened under.
        leaves: how they are put into the log.
        clock: what time it is.
        ids: where ids come from.
        shared: other processes serve the same sessions, and each must know what the others did.
    """

    def __init__(
        self,
        store: Store,
        pipelines: Pipelines,
        leaves: Leaves,
        clock: Clock,
        ids: Ids,
        *,
        shared: bool = False,
    ) -> None:
        self._store = store
        self._pipelines = pipelines
        self._leaves = leaves
        self._clock = clock
        self._ids = ids
        self._shared = shared
        self._recall = Recall(store, pipelines, leaves)
        self._open: OrderedDict[str, Open] = OrderedDict()
        self._closed: OrderedDict[str, Open] = OrderedDict()

    def open(self, opening: Opening, agent_uuid: str = "", *, joined: bool = False) -> Open:
        """Open a session, durably; an id that is open already is answered as it is, a closed one opens again.

        Args:
            opening: what is asked for.
            agent_uuid: the registered agent whose key was shown; "" where code may name its agent itself.
            joined: a token was shown for the session around it, which may be another agent's, or another plane's.

        Raises:
            TapPassConfigError: the mode is unknown or not allowed, no policy can be loaded, the key or the id is
                another agent's, or the session around it is.
            TapPassConnectionError: it cannot be recorded.
        """
        if agent_uuid:
            opening = self._authenticated(opening, agent_uuid, joined)
        while True:
            if opening.id and (known := self._again(opening.id, agent_uuid)) is not None:
                return known
            try:
                return self._begin(opening)
            except _TakenError as taken:
                # Another process was faster; an id that is still unknown is one of another organisation or project.
                if self.known(opening.id) is None:
                    raise not_open(opening.id) from taken

    def _authenticated(self, opening: Opening, agent_uuid: str, joined: bool) -> Opening:
        row = self._store.read.row(_NAME, (self._leaves.org_id, self._leaves.project_id, agent_uuid))
        if row is None:
            raise TapPassConfigError(f"there is no agent `{agent_uuid}` in this project; register it first")
        if opening.agent and opening.agent != row[0]:
            raise TapPassConfigError(
                f"the key shown is the agent `{row[0]}`'s, so it opens no session for another; leave `agent` out"
            )
        if opening.parent and not joined:
            around = self.known(opening.parent)
            if around is None or around.record.agent_uuid != agent_uuid:
                raise not_open(opening.parent)
        return msgspec.structs.replace(opening, agent=row[0])

    def _again(self, session_id: str, agent_uuid: str) -> Open | None:
        """Return the session that has an id already, opened again if it was closed."""
        known = self._read(session_id) if self._shared else self.known(session_id)
        if known is None:
            return None
        if agent_uuid and known.record.agent_uuid != agent_uuid:
            raise not_open(session_id)
        return known if session_id in self._open else self.reopen(session_id)

    def _begin(self, opening: Opening) -> Open:
        pipeline = self._pipelines.current()
        mode = self._mode(opening, pipeline)
        told = told_of(opening)
        session_id = opening.id or self._ids.new("ses")
        name = opening.agent or pipeline.settings.agent.name or DEFAULT_AGENT
        told["agent"] = name
        body = stored(pipeline, told)
        around = within(self.known(opening.parent) if opening.parent else None)

        def write(tx: Tx) -> Open:
            agent_uuid, tier, framework = self._agent(tx, name)
            record = SessionRecord(
                session_id=session_id,
                agent_uuid=agent_uuid,
                pipeline_uuid=pipeline.uuid,
                audit_url=audit_url(pipeline, session_id),
                name=opening.name,
                agent=name,
                mode=mode,
                tier=tier,
                parent=opening.parent,
            )
            leaf = common(self._leaves, record)
            self._write(tx, opening, record, leaf, body, told["metadata"])
            return Open(record, pipeline, framework, told["metadata"], opening.implicit, leaf, around)

        return self._remember(self._store.run(write))

    def _mode(self, opening: Opening, pipeline: Pipeline) -> str:
        parent = self.known(opening.parent) if opening.parent else None
        mode = opening.mode or (parent.record.mode if parent is not None else ENFORCE)
        if mode not in (ENFORCE, OBSERVE):
            raise TapPassConfigError(f"mode {mode!r} is unknown; use {ENFORCE!r} or {OBSERVE!r}")
        if mode == OBSERVE and not pipeline.policy.allow_observe:
            raise TapPassConfigError(
                "mode='observe' would relax the policy, and the policy does not allow that; "
                "its owner can: `allow_observe: true`, then `tappass policy accept`"
            )
        return mode

    def _agent(self, tx: Tx, name: str) -> tuple[str, str, str]:
        """Return an agent's uuid, tier and framework; an embedded agent is registered by being named."""
        keys = (self._leaves.org_id, self._leaves.project_id)
        row = tx.execute(_AGENT, (*keys, name)).fetchone()
        if row is None:
            at = rfc3339(self._clock.time_ns())
            tx.execute(_NEW_AGENT, (str(uuid.uuid4()), *keys, name, DEFAULT_TIER, at))
            row = tx.execute(_AGENT, (*keys, name)).fetchone()
        return row[0], row[1], row[2]

    def _write(
        self,
        tx: Tx,
        opening: Opening,
        record: SessionRecord,
        leaf: AuditEvent,
        body: bytes | None,
        metadata: dict[str, Any],
    ) -> None:
        event = self._leaves.of(leaf, "session.opened", kind=opening.kind, tier=record.tier, actor=record.agent)
        event = tx.append(event, body)
        done = tx.execute(
            _OPEN,
            (
                record.session_id,
                self._leaves.org_id,
                self._leaves.project_id,
                record.parent,
                record.agent_uuid,
                record.pipeline_uuid,
                opening.kind,
                record.name,
                record.mode,
                record.tier,
                int(opening.implicit),
                event.at,
                event.seq,
                msgspec.json.encode(metadata) if metadata else None,
            ),
        )
        if not done.rowcount:
            raise _TakenError

    def reopen(self, session_id: str) -> Open:
        """Open a closed session again, on the record, under the policy in force now; one that is open stays as it is.

        Raises:
            TapPassConfigError: there is no such session.
        """
        known = self._read(session_id) if self._shared else self.known(session_id)
        if known is None:
            raise TapPassConfigError(f"session `{session_id}` is unknown on this plane, so it cannot be resumed")
        if session_id in self._open:
            return self._open[session_id]
        pipeline = self._pipelines.current()

        def write(tx: Tx) -> Open | None:
            status, openings = tx.execute(_STANDS, (session_id, self._leaves.org_id)).fetchone()
            if status == OPEN:
                return None
            opened = self._under(known, pipeline, openings + 1)
            record = opened.record
            tx.append(self._leaves.of(opened.leaf, "session.reopened", tier=record.tier, actor=record.agent))
            tx.execute(_REOPEN, (pipeline.uuid, openings + 1, session_id, self._leaves.org_id))
            return opened

        return self._remember(self._store.run(write) or self._read(session_id) or known)

    def _under(self, known: Open, pipeline: Pipeline, openings: int) -> Open:
        record = msgspec.structs.replace(
            known.record,
            pipeline_uuid=pipeline.uuid,
            audit_url=audit_url(pipeline, known.record.session_id),
            mode=mode_under(pipeline, known.record.mode),
            openings=openings,
        )
        leaf = common(self._leaves, record)
        return Open(record, pipeline, known.framework, known.metadata, known.implicit, leaf, known.around)

    def find(self, session_id: str) -> Open:
        """Return an open session.

        Raises:
            TapPassConfigError: it is not open here.
        """
        found = self._open.get(session_id)
        if found is None:
            self._read(session_id)
            if (found := self._open.get(session_id)) is None:
                raise not_open(session_id)
        return found

    def known(self, session_id: str) -> Open | None:
        """Return a session, open or closed: a call may end after its session."""
        return self.kept(session_id) or self._read(session_id)

    def kept(self, session_id: str) -> Open | None:
        """Return a session that this process remembers; asks nobody, so that finalisers may ask for it."""
        return self._open.get(session_id) or self._closed.get(session_id)

    def kept_open(self, session_id: str) -> Open | None:
        """Return a session that this process remembers as open."""
        return self._open.get(session_id)

    def ask(self, opened: Open) -> Ask:
        """Return what `check` asks."""
        return _STANDS, (opened.record.session_id, self._leaves.org_id)

    def check(self, tx: Tx, opened: Open) -> None:
        """Make sure, in the transaction of a decision, that a session still stands as this process knows it.

        Raises:
            ClosedError: another process has closed it.
            ReopenedError: another process has opened it again since, maybe under another policy.
        """
        row = tx.execute(*self.ask(opened)).fetchone()
        if row is None or tuple(row) != (OPEN, opened.record.openings):
            self.forget(opened.record.session_id)
            raise ClosedError if row is None or row[0] != OPEN else ReopenedError

    def close(self, session_id: str, status: str, openings: int = 0) -> bool:
        """Close a session as completed, failed or suspended, durably; tell whether that was still to be done.

        Args:
            session_id: which.
            status: how.
            openings: how often it had been opened as its closer knows it; 0 closes it anyhow.

        Raises:
            TapPassConfigError: there is no such session, or no such status.
        """
        check_status(status)
        opened = self.known(session_id) if self._shared else self.find(session_id)
        if opened is None:
            raise not_open(session_id)
        closed = self._store.run(lambda tx: self.close_in(tx, opened, status, openings))
        self.put_away([session_id])
        return closed

    def close_in(self, tx: Tx, opened: Open, status: str, openings: int) -> bool:
        """Close a session within a transaction, unless it is closed already or was opened again since."""
        session_id = opened.record.session_id
        stands, opened_times = tx.execute(_STANDS, (session_id, self._leaves.org_id)).fetchone()
        if stands != OPEN or openings not in (0, opened_times):
            return False
        written = tx.append(self._leaves.of(opened.leaf, "session.closed", status=status))
        metadata = opened.metadata if status == SUSPENDED else ended_metadata(opened)
        body = msgspec.json.encode(metadata) if metadata else None
        tx.execute(_CLOSE, (status, written.at, written.seq, body, session_id, self._leaves.org_id))
        return True

    def put_away(self, closed: Sequence[str]) -> None:
        """Count sessions as closed from now on; one that is open all the same is read again when it is asked for."""
        for session_id in closed:
            if (opened := self._open.pop(session_id, None)) is not None:
                _put(self._closed, opened)

    def forget(self, session_id: str) -> None:
        """Read a session anew when it is asked for next."""
        self._open.pop(session_id, None)
        self._closed.pop(session_id, None)

    def _read(self, session_id: str) -> Open | None:
        """Read a session from its row, and remember it as open or closed as it is."""
        found = self._recall(session_id)
        if found is None:
            self.forget(session_id)
            return None
        opened, status = found
        if status == OPEN:
            return self._remember(opened)
        self._open.pop(session_id, None)
        _put(self._closed, opened)
        return opened

    def _remember(self, opened: Open) -> Open:
        self._closed.pop(opened.record.session_id, None)
        _put(self._open, opened)
        return opened


class ReopenedError(Exception):
    """A session is not the one that this process remembers: it was closed and opened again elsewhere."""


class ClosedError(Exception):
    """A session is open as this process knows it, and was closed by another."""


class _TakenError(Exception):
    """Another session has this id."""


def not_open(session_id: str) -> TapPassConfigError:
    """Return the error for a session that cannot be used: it says the same of one that is another agent's."""
    return TapPassConfigError(
        f"session `{session_id}` is not open on this plane, so nothing can run in it; open a new one"
    )


def check_status(status: str) -> None:
    """Refuse a status that no session is closed with."""
    if status not in STATUSES:
        raise TapPassConfigError(f"a session is closed as {', '.join(STATUSES)}, not as {status!r}")


def _put(kept: OrderedDict[str, Open], opened: Open) -> None:
    kept[opened.record.session_id] = opened
    while len(kept) > _REMEMBERED:
        kept.popitem(last=False)  # at once: other threads open and close sessions too
