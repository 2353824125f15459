"""Approvals a page at a time: what waits, the oldest first, and what was decided, the newest first."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tappass.engine.approvals import PENDING, Asking
from tappass.engine.store.reading import Reader

_WHOSE = "org_id = ? AND (? = '' OR project_id = ?)"
_COUNT = f"SELECT count(*) FROM approval WHERE {_WHOSE} AND state = ?"  # noqa: S608 (our own constant)
_WAITING = (
    f"SELECT approval_id FROM approval WHERE {_WHOSE} AND state = ? AND (requested_at > ? OR (requested_at = ?"  # noqa: S608
    " AND approval_id > ?)) ORDER BY requested_at, approval_id LIMIT ?"
)
_DECIDED = (
    "SELECT approval_id, session_id, task_id, state, rules, (SELECT name FROM agent WHERE agent.agent_uuid ="  # noqa: S608
    f" approval.agent_uuid), requested_at, decided_at, expires_at, requested_seq FROM approval WHERE {_WHOSE}"
    " AND state <> ? AND (? = '' OR requested_at < ? OR (requested_at = ? AND approval_id < ?))"
    " ORDER BY requested_at DESC, approval_id DESC LIMIT ?"
)
_VOTERS = (
    "SELECT approval_id, person.name FROM approval_vote JOIN person ON person.person_id = approval_vote.person_id"
    " WHERE approval_id IN ({}) ORDER BY voted_at"
)
_IS_OF = f"SELECT 1 FROM approval WHERE {_WHOSE} AND approval_id = ?"  # noqa: S608 (our own constant)
_PLACE = "SELECT session_id, requested_seq FROM approval WHERE org_id = ? AND approval_id = ?"
_AT = "SELECT requested_at FROM approval WHERE org_id = ? AND approval_id = ?"


class DecidedLine(msgspec.Struct, frozen=True, kw_only=True):
    """An approval that no longer waits; `name` is the tool's or the model's, `by` who voted."""

    approval_id: str
    session_id: str
    task_id: str
    state: str
    rules: tuple[str, ...]
    agent: str
    requested_at: str
    decided_at: str
    expires_at: str
    name: str = ""
    by: tuple[str, ...] = ()


class Inbox:
    """The approvals of one project, or of all of an organisation's where `project_id` is ""."""

    def __init__(self, read: Reader, org_id: str, project_id: str) -> None:
        self._read, self._org_id = read, org_id
        self._whose = (org_id, project_id, project_id)

    def holds(self, approval_id: str) -> bool:
        """Tell whether there is such an approval here."""
        return self._read.row(_IS_OF, (*self._whose, approval_id)) is not None

    def count(self) -> int:
        """Return how many wait."""
        row = self._read.row(_COUNT, (*self._whose, PENDING))
        return int(row[0]) if row is not None else 0

    def waiting(self, *, after: str = "", limit: int = 20) -> list[str]:
        """Return the ids of those that wait, the oldest first, beyond the one called `after`."""
        at = self._at(after)
        rows = self._read.query(_WAITING, (*self._whose, PENDING, at, at, after, limit))
        return [row[0] for row in rows]

    def decided(self, *, before: str = "", limit: int = 50) -> list[DecidedLine]:
        """Return those that no longer wait, the newest first, beyond the one called `before`."""
        at = self._at(before)
        rows = self._read.query(_DECIDED, (*self._whose, PENDING, at, at, at, before, limit))
        voters = self._voters([row[0] for row in rows])
        return [
            DecidedLine(
                **dict(zip(DecidedLine.__struct_fields__[:4], row[:4], strict=True)),
                **dict(zip(DecidedLine.__struct_fields__[6:9], row[6:9], strict=True)),
                rules=msgspec.json.decode(row[4], type=Asking).ids,
                agent=row[5] or "",
                name=self._name(row[1], row[9]),
                by=tuple(voters.get(row[0], ())),
            )
            for row in rows
        ]

    def _at(self, approval_id: str) -> str:
        row = self._read.row(_AT, (self._org_id, approval_id)) if approval_id else None
        return str(row[0]) if row is not None else ""

    def name(self, approval_id: str) -> str:
        """Return what was asked for, as the log has it: the name goes with the arguments once that is decided."""
        row = self._read.row(_PLACE, (self._org_id, approval_id))
        return self._name(row[0], row[1]) if row is not None else ""

    def _name(self, session_id: str, seq: int | None) -> str:
        asked = self._read.events(
            org_id=self._org_id, session_id=session_id, type="approval.requested", after=(seq or 0) - 1, limit=1
        )
        return asked[0].name if asked else ""

    def _voters(self, ids: Sequence[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        if ids:
            for approval_id, name in self._read.query(_VOTERS.format(", ".join("?" * len(ids))), ids):
                found.setdefault(approval_id, []).append(name)
        return found
