"""Leaves of the log, filled in: who writes, and when."""

from __future__ import annotations

from typing import Any

import msgspec

from tappass.wire.events import AuditEvent
from tappass.wire.ids import Clock, rfc3339

ORG, PROJECT = "org_local", "prj_local"


class Leaves:
    """Makes the events of one project of one organisation.

    Types: `session.opened`, `session.closed`, `call.decided`, `call.ended`, `policy.accepted`, `policy.changed`;
    `agent.registered`, `tier.changed`, `key.created`, `key.revoked`; `pin.approved`, `pin.pending`, `pin.revoked`,
    `pin.changed`; `break_glass.requested`, `.confirmed`, `.used`, `.ended`, `.expired`, `.reviewed`; `approval.*`;
    `session.reopened`, `session.joined`, `signing_key.created`, `.rotated`, `.retired`, `log.restored`,
    `delivery.rejected`, `reported.*`.
    """

    def __init__(self, clock: Clock, org_id: str = ORG, project_id: str = PROJECT) -> None:
        self._clock = clock
        self.org_id = org_id
        self.project_id = project_id

    @property
    def whose(self) -> tuple[str, str, str]:
        """What narrows a question: `org_id = ? AND (? = '' OR project_id = ?)`; no project means all of them."""
        return self.org_id, self.project_id, self.project_id

    def event(self, type: str, **fields: Any) -> AuditEvent:  # noqa: A002 (the field's own name)
        """Return an event that happens now; its place in the log is set when it is appended."""
        return AuditEvent(
            type=type, at=rfc3339(self._clock.time_ns()), org_id=self.org_id, project_id=self.project_id, **fields
        )

    def now(self) -> str:
        """Return the time as leaves have it."""
        return rfc3339(self._clock.time_ns())

    def of(self, common: AuditEvent, type: str, **fields: Any) -> AuditEvent:  # noqa: A002 (the field's own name)
        """Return an event that happens now, with what it has in common with its session's others."""
        return msgspec.structs.replace(common, type=type, at=rfc3339(self._clock.time_ns()), **fields)
