"""Sessions as the engine knows them: opened, looked up, closed, each on the record."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from tappass.enforcement.projection import Unprojectable, project
from tappass.engine import inspection
from tappass.engine.leaves import Leaves
from tappass.engine.pipelines import Pipeline, Pipelines
from tappass.engine.store.port import Store, Tx
from tappass.errors import TapPassConfigError
from tappass.wire.events import AuditEvent
from tappass.wire.ids import Clock, Ids, rfc3339
from tappass.wire.sessions import ENFORCE, OBSERVE, Opening, SessionRecord

DEFAULT_AGENT, DEFAULT_TIER = "default", "standard"
_REMEMBERED = 1000
STATUSES = ("completed", "failed", "suspended")

_AGENT = "SELECT agent_uuid, tier, framework FROM agent WHERE org_id = ? AND project_id = ? AND name = ?"
_NEW_AGENT = (
    "INSERT INTO agent (agent_uuid, org_id, project_id, name, tier, registered_at) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT DO NOTHING"
)
_OPEN = (
    "INSERT INTO session (session_id, org_id, project_id, parent, agent_uuid, pipeline_uuid, kind, name, mode, tier,"
    " status, implicit, opened_at, opened_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open', ?, ?, ?)"
)
_SESSION = (
    "SELECT parent, session.agent_uuid, session.name, mode, implicit, agent.name, agent.tier, framework FROM session"
    " JOIN agent ON agent.agent_uuid = session.agent_uuid WHERE session_id = ? AND session.org_id = ?"
)
_REOPEN = (
    "UPDATE session SET status = 'open', closed_at = '', closed_seq = NULL, pipeline_uuid = ?"
    " WHERE session_id = ? AND org_id = ?"
)
_CLOSE = "UPDATE session SET status = ?, closed_at = ?, closed_seq = ? WHERE session_id = ? AND org_id = ?"


@dataclass(frozen=True, slots=True)
class Open:
    """An open session, with everything a decision in it needs."""

    record: SessionRecord
    pipeline: Pipeline
    framework: str
    metadata: dict[str, Any]
    implicit: bool
    leaf: AuditEvent
    """What every leaf of this session has in common."""


class Sessions:
    """The sessions of one project."""

    def __init__(self, store: Store, pipelines: Pipelines, leaves: Leaves, clock: Clock, ids: Ids) -> None:
        self._store = store
        self._pipelines = pipelines
        self._leaves = leaves
        self._clock = clock
        self._ids = ids
        self._open: dict[str, Open] = {}
        self._closed: OrderedDict[str, Open] = OrderedDict()

    def open(self, opening: Opening) -> Open:
        """Open a session, durably; an id that is open already is answered as it is.

        Raises:
            TapPassConfigError: the mode is unknown or not allowed, or no policy can be loaded.
            TapPassConnectionError: it cannot be recorded.
        """
        if opening.id and (known := self._open.get(opening.id)) is not None:
            return known
        pipeline = self._pipelines.current()
        mode = self._mode(opening, pipeline)
        told = _told(opening)
        session_id = opening.id or self._ids.new("ses")
        name = opening.agent or pipeline.settings.agent.name or DEFAULT_AGENT
        told["agent"] = name
        body = _kept(pipeline, told)

        def write(tx: Tx) -> Open:
            agent_uuid, tier, framework = self._agent(tx, name)
            record = SessionRecord(
                session_id=session_id,
                agent_uuid=agent_uuid,
                pipeline_uuid=pipeline.uuid,
                audit_url=f"{pipeline.settings.server.url.rstrip('/')}/sessions/{session_id}",
                name=opening.name,
                agent=name,
                mode=mode,
                tier=tier,
                parent=opening.parent,
            )
            leaf = self._common(record)
            self._write(tx, opening, record, leaf, body)
            return Open(record, pipeline, framework, told["metadata"], opening.implicit, leaf)

        opened = self._store.run(write)
        self._open[session_id] = opened
        return opened

    def _mode(self, opening: Opening, pipeline: Pipeline) -> str:
        parent = self._open.get(opening.parent)
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

    def _common(self, record: SessionRecord) -> AuditEvent:
        return self._leaves.event(
            "",
            session_id=record.session_id,
            agent_uuid=record.agent_uuid,
            pipeline_uuid=record.pipeline_uuid,
            audit_url=record.audit_url,
            parent=record.parent,
            mode=record.mode,
        )

    def _write(self, tx: Tx, opening: Opening, record: SessionRecord, leaf: AuditEvent, body: bytes | None) -> None:
        event = self._leaves.of(leaf, "session.opened", kind=opening.kind, tier=record.tier, actor=record.agent)
        event = tx.append(event, body)
        tx.execute(
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
            ),
        )

    def reopen(self, session_id: str) -> Open:
        """Open a closed session again, on the record, under the policy in force now; one that is open stays as it is.

        Raises:
            TapPassConfigError: there is no such session.
        """
        if (known := self._open.get(session_id)) is not None:
            return known
        row = self._store.read.row(_SESSION, (session_id, self._leaves.org_id))
        if row is None:
            raise TapPassConfigError(f"session `{session_id}` is unknown on this plane, so it cannot be resumed")
        pipeline = self._pipelines.current()
        parent, agent_uuid, name, mode, implicit, agent, tier, framework = row
        record = SessionRecord(
            session_id=session_id,
            agent_uuid=agent_uuid,
            pipeline_uuid=pipeline.uuid,
            audit_url=f"{pipeline.settings.server.url.rstrip('/')}/sessions/{session_id}",
            name=name,
            agent=agent,
            mode=mode if pipeline.policy.allow_observe else ENFORCE,
            tier=tier,
            parent=parent,
        )
        leaf = self._common(record)

        def write(tx: Tx) -> None:
            tx.append(self._leaves.of(leaf, "session.reopened", tier=tier, actor=agent))
            tx.execute(_REOPEN, (pipeline.uuid, session_id, self._leaves.org_id))

        self._store.run(write)
        opened = self._open[session_id] = Open(record, pipeline, framework, {}, bool(implicit), leaf)
        self._closed.pop(session_id, None)
        return opened

    def find(self, session_id: str) -> Open:
        """Return an open session.

        Raises:
            TapPassConfigError: it is not open here.
        """
        found = self._open.get(session_id)
        if found is None:
            raise TapPassConfigError(
                f"session `{session_id}` is not open on this plane, so nothing can run in it; open a new one"
            )
        return found

    def known(self, session_id: str) -> Open | None:
        """Return a session that is open, or was until lately: a call may end after its session."""
        return self._open.get(session_id) or self._closed.get(session_id)

    def close(self, session_id: str, status: str) -> None:
        """Close a session as completed, failed or suspended, durably."""
        if status not in STATUSES:
            raise TapPassConfigError(f"a session is closed as {', '.join(STATUSES)}, not as {status!r}")
        opened = self.find(session_id)
        event = self._leaves.of(opened.leaf, "session.closed", status=status)

        def write(tx: Tx) -> None:
            written = tx.append(event)
            tx.execute(_CLOSE, (status, written.at, written.seq, session_id, self._leaves.org_id))

        self._store.run(write)
        self._closed[session_id] = opened
        self._open.pop(session_id, None)
        while len(self._closed) > _REMEMBERED:
            self._closed.popitem(last=False)  # at once: other threads close sessions too


def _told(opening: Opening) -> dict[str, Any]:
    """Return what is stored of an opening, in JSON types."""
    try:
        told: dict[str, Any] = project({"name": opening.name, "metadata": opening.metadata}, "", {}, {})
        project(opening.agent, "", {}, {})
    except Unprojectable as error:
        raise TapPassConfigError(
            f"the session was not opened: its name, agent or metadata cannot be recorded ({error.why}); use JSON types"
        ) from None
    return told


def _kept(pipeline: Pipeline, told: dict[str, Any]) -> bytes | None:
    try:
        return inspection.stored(pipeline.settings, told, pipeline.detectors.inspect(told))
    except Exception:  # a detector may be anybody's; what cannot be inspected is not kept
        return None
