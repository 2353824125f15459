"""What agents report of themselves: on record as `reported.*`, so that nobody takes it for what the plane decided."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from tappass.engine import inspection
from tappass.engine.delivered import is_name
from tappass.engine.leaves import Leaves
from tappass.engine.moments import told_at
from tappass.engine.pipelines import Pipeline, Pipelines
from tappass.engine.recalled import Open
from tappass.engine.replaying import Replays
from tappass.engine.sessions import Sessions, not_open
from tappass.engine.store.port import Store, Tx
from tappass.errors import TapPassConfigError
from tappass.wire.codec import encode
from tappass.wire.events import AuditEvent
from tappass.wire.findings import Finding
from tappass.wire.service import Receipt, Report

PREFIX = "reported."
_TYPE_LETTERS, _LONGEST_TYPE = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-"), 64
_NAME = "SELECT name FROM agent WHERE org_id = ? AND project_id = ? AND agent_uuid = ?"


class Reports:
    """Takes reports in batches, one transaction each; their details are content, and stored as such."""

    def __init__(
        self, store: Store, pipelines: Pipelines, leaves: Leaves, sessions: Sessions, replays: Replays
    ) -> None:
        self._store, self._pipelines, self._leaves = store, pipelines, leaves
        self._sessions, self._replays = sessions, replays

    def take(self, reports: Sequence[Report], agent_uuid: str, key: str) -> Receipt:
        """Record a batch, durably; the same one under the same key is recorded once.

        Raises:
            TapPassConfigError: a report is malformed, or names another agent or another agent's session; none of the
                batch was recorded.
            TapPassConnectionError: it cannot be recorded; none of it was.
        """
        if not reports:
            return Receipt(accepted=0, duplicates=0)
        leaves = self._leaves_of(reports, agent_uuid)
        once = f"reports:{agent_uuid}:{_digest(key.encode())}:{_digest(encode(reports))}" if key else ""

        def write(tx: Tx) -> bool:
            if once and not self._replays.first(tx, once):
                return False
            append = tx.append
            for event, body in leaves:
                append(event, body)
            return True

        new = self._store.run(write)
        return Receipt(accepted=len(reports) if new else 0, duplicates=0 if new else len(reports))

    def _leaves_of(self, reports: Sequence[Report], agent_uuid: str) -> list[tuple[AuditEvent, bytes | None]]:
        own = {agent_uuid, self._name(agent_uuid), ""}
        pipeline = self._pipelines.current()
        bare = self._leaves.event("", agent_uuid=agent_uuid, pipeline_uuid=pipeline.uuid)
        leaves: dict[str, AuditEvent] = {"": bare}
        events = []
        for index, report in enumerate(reports):
            if report.agent_id not in own:
                raise _malformed(index, "`agent_id` is not the agent whose key was shown; leave it out")
            if (leaf := leaves.get(report.session_id)) is None:
                leaf = leaves[report.session_id] = self._session(report.session_id, agent_uuid).leaf
            events.append(self._event(index, report, leaf, bare.at))
        return list(zip(events, _bodies(pipeline, [report.details for report in reports]), strict=True))

    def _event(self, index: int, report: Report, leaf: AuditEvent, now: str) -> AuditEvent:
        if not 0 < len(report.event_type) <= _LONGEST_TYPE or not _TYPE_LETTERS.issuperset(report.event_type):
            raise _malformed(index, "`event_type` is not 1 to 64 of a-z, 0-9, `_`, `.` and `-`")
        if not is_name(report.task_id):
            raise _malformed(index, "`task_id` is not printable text of at most 200 characters")
        if (at := told_at(report.occurred_at, now)) is None:
            raise _malformed(index, "`occurred_at` is not a time as of RFC 3339")
        return msgspec.structs.replace(leaf, type=PREFIX + report.event_type, at=at, task_id=report.task_id)

    def _session(self, session_id: str, agent_uuid: str) -> Open:
        opened = self._sessions.known(session_id)
        if opened is None or opened.record.agent_uuid != agent_uuid:
            raise not_open(session_id)
        return opened

    def _name(self, agent_uuid: str) -> str:
        row = self._store.read.row(_NAME, (self._leaves.org_id, self._leaves.project_id, agent_uuid))
        return str(row[0]) if row else ""


def _bodies(pipeline: Pipeline, details: list[dict[str, Any]]) -> list[bytes | None]:
    """Return what is stored of each report's details; they are inspected together, which costs a tenth."""
    found: dict[int, list[Finding]] = {}
    read = True
    try:
        for finding in pipeline.detectors.inspect(details):
            index, slash, rest = finding.where[1:].partition("/")
            found.setdefault(int(index), []).append(msgspec.structs.replace(finding, where=slash + rest))
    except Exception:  # a detector may be anybody's; what it could not read is not kept
        read = False
    return [
        inspection.stored(pipeline.settings, told, tuple(found.get(index, ())), read=read) if told else None
        for index, told in enumerate(details)
    ]


def _malformed(index: int, why: str) -> TapPassConfigError:
    return TapPassConfigError(f"report {index} was not recorded, nor the others with it: {why}")


def _digest(told: bytes) -> str:
    return hashlib.sha256(told).hexdigest()[:40]
