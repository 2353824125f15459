"""What people do with tool definitions: look at them, compare them, approve them, revoke them."""

from __future__ import annotations

from typing import Any

import msgspec

from tappass.engine.approver import Approver
from tappass.engine.integrity import APPROVED, REVOKED
from tappass.engine.leaves import Leaves
from tappass.engine.store.port import Store, Tx
from tappass.engine.words import reasoned, worded
from tappass.errors import TapPassConfigError
from tappass.wire.decisions import ToolDefinition
from tappass.wire.ids import SYSTEM_CLOCK, Clock, rfc3339

RECORDED = "recorded"

_LIST = (
    "SELECT d.server, d.name, d.digest, state, decided_by, decided_at, reason, first_seen_at, first_seen_seq,"
    " definition FROM tool_definition d LEFT JOIN pin ON pin.org_id = d.org_id AND pin.project_id = d.project_id"
    " AND pin.server = d.server AND pin.name = d.name AND pin.digest = d.digest"
    " WHERE d.org_id = ? AND d.project_id = ? ORDER BY d.name, d.server, first_seen_seq"
)
_STATE = "SELECT state FROM pin WHERE org_id = ? AND project_id = ? AND server = ? AND name = ? AND digest = ?"
_SET = (
    "INSERT INTO pin (org_id, project_id, server, name, digest, state, decided_by, decided_at, reason, changed_seq)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (org_id, project_id, server, name, digest) DO UPDATE SET"
    " state = excluded.state, decided_by = excluded.decided_by, decided_at = excluded.decided_at,"
    " reason = excluded.reason, changed_seq = excluded.changed_seq"
)


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """One definition of a tool, and what people think of it; `recorded` if nobody was asked."""

    server: str
    name: str
    digest: str
    state: str
    decided_by: str
    decided_at: str
    reason: str
    first_seen_at: str
    first_seen_seq: int
    definition: ToolDefinition


class Pins:
    """The tool definitions of one project. Whoever changes something here has shown an approver key."""

    def __init__(self, store: Store, leaves: Leaves, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store, self._leaves, self._clock = store, leaves, clock

    def all(self) -> list[Pin]:
        """Return every definition that was seen, by name, then in the order in which they were."""
        return [_pin(row) for row in self._store.read.query(_LIST, self._scope())]

    def of(self, tool: str) -> list[Pin]:
        """Return the definitions of one tool, the oldest first; `tool` is its name, or `SERVER/NAME`.

        Raises:
            TapPassConfigError: no such tool was seen, or several servers have one of that name.
        """
        pins = self.all()
        found = [pin for pin in pins if f"{pin.server}/{pin.name}" == tool]
        found = found or [pin for pin in pins if pin.name == tool]
        if not found:
            raise TapPassConfigError(f"no tool `{tool}` has been called here; `tappass tools` lists those that were")
        servers = sorted({pin.server for pin in found})
        if len(servers) > 1:
            named = ", ".join(f"`{server}/{tool}`" for server in servers)
            raise TapPassConfigError(f"several servers have a tool `{tool}`; say which: {named}")
        return found

    def one(self, tool: str, digest: str = "") -> Pin:
        """Return one definition: the one whose digest begins so, else the latest.

        Raises:
            TapPassConfigError: there is none, or several begin so.
        """
        found = [pin for pin in self.of(tool) if pin.digest.startswith(digest)]
        if not found or (digest and len(found) > 1):
            how = "several definitions" if found else "no definition"
            raise TapPassConfigError(f"`{tool}` has {how} whose digest begins with `{digest}`; see `tappass tools`")
        return found[-1]

    def approve(self, by: Approver, pin: Pin, reason: str) -> Pin:
        """Let a tool run as that definition says; the earlier ones stay as they are.

        Raises:
            TapPassConfigError: no reason is given.
        """
        return self._set(by, pin, APPROVED, reason)

    def revoke(self, by: Approver, pin: Pin, reason: str) -> Pin:
        """Never let a tool run as that definition says, in any mode, until it is approved again.

        Raises:
            TapPassConfigError: no reason is given.
        """
        return self._set(by, pin, REVOKED, reason)

    def _set(self, by: Approver, pin: Pin, state: str, reason: str) -> Pin:
        key = (pin.server, pin.name, pin.digest)
        body, words = reasoned(reason), worded(reason, "the reason")
        at = rfc3339(self._clock.time_ns())

        def write(tx: Tx) -> Pin:
            row = tx.execute(_STATE, (*self._scope(), *key)).fetchone()
            if row is not None and row[0] == state:
                return pin
            old = row[0] if row is not None else RECORDED
            fields: dict[str, Any] = {"server": pin.server, "name": pin.name, "definition": pin.digest}
            event = self._leaves.event(f"pin.{state}", actor=by.name, details={"old": old, "new": state}, **fields)
            seq = tx.append(event, body).seq
            tx.execute(_SET, (*self._scope(), *key, state, by.name, at, words, seq))
            tx.controlled(self._leaves.org_id)
            return msgspec.structs.replace(pin, state=state, decided_by=by.name, decided_at=at, reason=words)

        return self._store.run(write)

    def _scope(self) -> tuple[str, str]:
        return (self._leaves.org_id, self._leaves.project_id)


def before(pins: list[Pin], pin: Pin) -> Pin | None:
    """Return what a definition is to be compared with: the latest approved one beside it, else the one before it."""
    others = [other for other in pins if other.digest != pin.digest]
    approved = [other for other in others if other.state == APPROVED]
    earlier = [other for other in others if other.first_seen_seq < pin.first_seen_seq]
    found = approved or earlier
    return found[-1] if found else None


def _pin(row: tuple[Any, ...]) -> Pin:
    *fields, definition = row
    named = dict(zip(Pin.__struct_fields__, fields, strict=False))
    named = {name: "" if value is None else value for name, value in named.items()}
    named["state"] = named["state"] or RECORDED
    return Pin(**named, definition=msgspec.json.decode(definition, type=ToolDefinition))
