"""What stands in the log for a record that could not be written."""

from __future__ import annotations

from tappass.engine.store.port import Tx
from tappass.wire.events import AuditEvent


class Lost:
    """A deferred write of its own: a `record.lost` leaf that names the record by its ids and type."""

    def __init__(self, event: AuditEvent, at: str, error_type: str) -> None:
        self._event, self._at, self._error_type = event, at, error_type

    def __call__(self, tx: Tx) -> None:
        """Append the leaf."""
        event = self._event
        tx.append(
            AuditEvent(
                at=self._at,
                type="record.lost",
                org_id=event.org_id,
                project_id=event.project_id,
                session_id=event.session_id,
                task_id=event.task_id,
                agent_uuid=event.agent_uuid,
                pipeline_uuid=event.pipeline_uuid,
                error_type=self._error_type,
                details={"record": event.type},
            )
        )
