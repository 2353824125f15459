"""Sessions as a decision needs them, made when they are opened or read back from their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from tappass.enforcement.projection import Unprojectable, project
from tappass.engine import inspection
from tappass.engine.leaves import Leaves
from tappass.engine.pipelines import Pipeline, Pipelines
from tappass.engine.store.port import Store
from tappass.errors import TapPassConfigError
from tappass.wire.events import AuditEvent
from tappass.wire.sessions import ENFORCE, Opening, SessionRecord

OPEN = "open"
_LONGEST_ID = 200

_ROW = (
    "SELECT s.status, s.openings, s.parent, s.agent_uuid, s.pipeline_uuid, s.name, s.mode, s.implicit, s.metadata,"
    " agent.name, agent.tier, agent.framework FROM session s"
    " JOIN agent ON agent.org_id = s.org_id AND agent.agent_uuid = s.agent_uuid"
    " WHERE s.session_id = ? AND s.org_id = ? AND s.project_id = ?"
)


# Rules for sessions look so far up.
_DEEPEST = 32


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
    around: tuple[str, ...] = ()
    """The names of the sessions that it lies beneath, the nearest first."""
    recalled: bool = False
    """It was read from its row: another process may have opened it, and may close it."""


class Recall:
    """Reads one project's sessions from their rows, each with the policy that it was opened under."""

    def __init__(self, store: Store, pipelines: Pipelines, leaves: Leaves) -> None:
        self._store, self._pipelines, self._leaves = store, pipelines, leaves

    def __call__(self, session_id: str) -> tuple[Open, str] | None:
        """Return a session and its status; None if there is none of that id in this project."""
        row = self._store.read.row(_ROW, (session_id, self._leaves.org_id, self._leaves.project_id))
        if row is None:
            return None
        status, openings, parent, agent_uuid, pipeline_uuid, name, mode, implicit, metadata, *agent = row
        pipeline = self._pipelines.of(pipeline_uuid)
        if pipeline is None:
            raise TapPassConfigError(
                f"session `{session_id}` was opened under the policy `{pipeline_uuid}`, which is not in this "
                "database; open a new session"
            )
        record = SessionRecord(
            session_id=session_id,
            agent_uuid=agent_uuid,
            pipeline_uuid=pipeline_uuid,
            audit_url=audit_url(pipeline, session_id),
            name=name,
            agent=agent[0],
            mode=mode_under(pipeline, mode),
            tier=agent[1],
            parent=parent,
            openings=openings,
        )
        told = msgspec.json.decode(metadata) if metadata else {}
        above = self(parent) if parent else None
        around = within(above[0] if above is not None else None)
        leaf = common(self._leaves, record)
        return Open(record, pipeline, agent[2], told, bool(implicit), leaf, around, True), status


def within(parent: Open | None) -> tuple[str, ...]:
    """Return the names of the sessions around one whose parent this is, the nearest first."""
    return (parent.record.name, *parent.around)[:_DEEPEST] if parent is not None else ()


def audit_url(pipeline: Pipeline, session_id: str) -> str:
    """Return where people read a session's record."""
    return f"{pipeline.settings.server.url.rstrip('/')}/sessions/{session_id}"


def mode_under(pipeline: Pipeline, mode: str) -> str:
    """Return a session's mode under a policy, which may not let it only observe."""
    return mode if pipeline.policy.allow_observe else ENFORCE


def common(leaves: Leaves, record: SessionRecord) -> AuditEvent:
    """Return what every leaf of a session has in common."""
    return leaves.event(
        "",
        session_id=record.session_id,
        agent_uuid=record.agent_uuid,
        pipeline_uuid=record.pipeline_uuid,
        audit_url=record.audit_url,
        parent=record.parent,
        mode=record.mode,
    )


def told_of(opening: Opening) -> dict[str, Any]:
    """Return what is stored of an opening, in JSON types."""
    if len(opening.id) > _LONGEST_ID or not opening.id.isprintable():
        raise TapPassConfigError(f"a session's id is printable text of at most {_LONGEST_ID} characters")
    try:
        told: dict[str, Any] = project({"name": opening.name, "metadata": opening.metadata}, "", {}, {})
        project(opening.agent, "", {}, {})
    except Unprojectable as error:
        raise TapPassConfigError(
            f"the session was not opened: its name, agent or metadata cannot be recorded ({error.why}); use JSON types"
        ) from None
    return told


def stored(pipeline: Pipeline, told: dict[str, Any]) -> bytes | None:
    """Return what was told as it is kept: masked as the settings say, or not at all."""
    try:
        return inspection.stored(pipeline.settings, told, pipeline.detectors.inspect(told))
    except Exception:  # a detector may be anybody's; what cannot be inspected is not kept
        return None


def ended_metadata(opened: Open) -> dict[str, Any]:
    """Return what is kept of the metadata of a session that has ended."""
    body = stored(opened.pipeline, opened.metadata) if opened.metadata else None
    kept: dict[str, Any] = msgspec.json.decode(body) if body else {}
    return kept
