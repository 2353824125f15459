"""Agents and the trust that people have in them: registered, ranked, and given keys."""

from __future__ import annotations

import uuid

import msgspec

from tappass.engine.approver import Approver
from tappass.engine.credentials import AGENT, digest_of, new_key
from tappass.engine.leaves import Leaves
from tappass.engine.policy.document import TIERS
from tappass.engine.sessions import DEFAULT_TIER
from tappass.engine.store.port import Store, Tx
from tappass.engine.words import reasoned, worded
from tappass.errors import TapPassConfigError
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock, Ids, rfc3339

SCOPE = AGENT
REGISTERED, CHANGED = "agent.registered", "tier.changed"

_COLUMNS = "agent_uuid, name, tier, framework, description, active, registered_by, registered_at"
_LIST = f"SELECT {_COLUMNS} FROM agent WHERE org_id = ? AND project_id = ? ORDER BY name"  # noqa: S608
_ONE = f"SELECT {_COLUMNS} FROM agent WHERE org_id = ? AND project_id = ? AND name = ?"  # noqa: S608
_BY_UUID = f"SELECT {_COLUMNS} FROM agent WHERE org_id = ? AND project_id = ? AND agent_uuid = ?"  # noqa: S608
_NEW = (
    "INSERT INTO agent (agent_uuid, org_id, project_id, name, tier, framework, description, registered_by,"
    " registered_at, changed_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ADOPT = (
    "UPDATE agent SET framework = ?, description = ?, registered_by = ?, registered_at = ?, changed_seq = ?"
    " WHERE agent_uuid = ?"
)
_SET_TIER = "UPDATE agent SET tier = ?, changed_seq = ? WHERE agent_uuid = ?"
_NEW_KEY = (
    "INSERT INTO api_key (key_id, org_id, project_id, agent_uuid, digest, scopes, label, created_by, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_KEYS = (
    "SELECT key_id, label, created_by, created_at, revoked_at FROM api_key"
    " WHERE org_id = ? AND agent_uuid = ? AND scopes = ? ORDER BY created_at, key_id"
)
_REVOKE = "UPDATE api_key SET revoked_at = ? WHERE org_id = ? AND agent_uuid = ? AND key_id = ? AND revoked_at = ''"


class AgentRow(msgspec.Struct, frozen=True, kw_only=True):
    """A registered agent; `registered_by` is "" for one that code merely named."""

    agent_uuid: str
    name: str
    tier: str
    framework: str
    description: str
    active: int
    registered_by: str
    registered_at: str


class TierChange(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of an agent's history; `reason` is "" where its content was erased."""

    seq: int
    at: str
    type: str
    actor: str
    old: str
    new: str
    reason: str


class AgentKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of an agent, without the key."""

    key_id: str
    label: str
    created_by: str
    created_at: str
    revoked_at: str


class Agents:
    """The agents of one project. Whoever changes something here has shown an approver key."""

    def __init__(self, store: Store, leaves: Leaves, clock: Clock = SYSTEM_CLOCK, ids: Ids = UUID_IDS) -> None:
        self._store, self._leaves = store, leaves
        self._clock, self._ids = clock, ids

    def all(self) -> list[AgentRow]:
        """Return every agent, by name."""
        return [_agent(row) for row in self._store.read.query(_LIST, (self._leaves.org_id, self._leaves.project_id))]

    def find(self, name: str) -> AgentRow:
        """Return one agent.

        Raises:
            TapPassConfigError: there is none of that name.
        """
        row = self._store.read.row(_ONE, self._named(name))
        if row is None:
            raise _unknown(name)
        return _agent(row)

    def by_uuid(self, agent_uuid: str) -> AgentRow | None:
        """Return an agent of this organisation, or None."""
        row = self._store.read.row(_BY_UUID, (self._leaves.org_id, self._leaves.project_id, agent_uuid))
        return None if row is None else _agent(row)

    def add(self, by: Approver, name: str, *, framework: str = "", description: str = "") -> AgentRow:
        """Register an agent; one that code has named already keeps its uuid and tier.

        Raises:
            TapPassConfigError: the name is not usable, or it is registered already.
        """
        name = worded(name, "an agent's name", longest=200)
        at = rfc3339(self._clock.time_ns())

        def write(tx: Tx) -> AgentRow:
            row = tx.execute(_ONE, self._named(name)).fetchone()
            if row is not None and _agent(row).registered_by:
                raise TapPassConfigError(f"the agent `{name}` is registered already, by {_agent(row).registered_by}")
            agent_uuid, tier = (row[0], row[2]) if row is not None else (str(uuid.uuid4()), DEFAULT_TIER)
            event = self._leaves.event(REGISTERED, actor=by.name, agent_uuid=agent_uuid, name=name, tier=tier)
            seq = tx.append(event).seq
            if row is not None:
                tx.execute(_ADOPT, (framework, description, by.name, at, seq, agent_uuid))
            else:
                keys = (agent_uuid, self._leaves.org_id, self._leaves.project_id, name, tier)
                tx.execute(_NEW, (*keys, framework, description, by.name, at, seq))
            tx.controlled(self._leaves.org_id)
            return _agent(tx.execute(_ONE, self._named(name)).fetchone())

        return self._store.run(write)

    def set_tier(self, by: Approver, name: str, tier: str, reason: str) -> AgentRow:
        """Change an agent's tier, also for sessions that are open; a tier that it has already changes nothing.

        Raises:
            TapPassConfigError: the agent or the tier is unknown, or no reason is given.
        """
        if tier not in TIERS:
            raise TapPassConfigError(f"the tier `{tier}` is unknown; use one of {', '.join(TIERS)}")
        body = reasoned(reason)

        def write(tx: Tx) -> AgentRow:
            row = tx.execute(_ONE, self._named(name)).fetchone()
            if row is None:
                raise _unknown(name)
            agent = _agent(row)
            if agent.tier == tier:
                return agent
            details = {"old": agent.tier, "new": tier}
            fields = {"actor": by.name, "agent_uuid": agent.agent_uuid, "name": name, "tier": tier, "details": details}
            seq = tx.append(self._leaves.event(CHANGED, **fields), body).seq
            tx.execute(_SET_TIER, (tier, seq, agent.agent_uuid))
            tx.controlled(self._leaves.org_id)
            return msgspec.structs.replace(agent, tier=tier)

        return self._store.run(write)

    def history(self, name: str) -> list[TierChange]:
        """Return who registered an agent and who changed its tier, when and why, oldest first."""
        agent, read = self.find(name), self._store.read
        found = [
            event
            for type_ in (REGISTERED, CHANGED)
            for event in read.events(org_id=self._leaves.org_id, agent_uuid=agent.agent_uuid, type=type_, limit=10_000)
        ]
        changes = []
        for event in sorted(found, key=lambda event: event.seq):
            body = read.content(event.seq, org_id=self._leaves.org_id)
            changes.append(
                TierChange(
                    seq=event.seq,
                    at=event.at,
                    type=event.type,
                    actor=event.actor,
                    old=event.details.get("old", ""),
                    new=event.tier,
                    reason=msgspec.json.decode(body).get("reason", "") if body else "",
                )
            )
        return changes

    def keys(self, name: str) -> list[AgentKey]:
        """Return an agent's keys, oldest first."""
        rows = self._store.read.query(_KEYS, (self._leaves.org_id, self.find(name).agent_uuid, SCOPE))
        return [AgentKey(**dict(zip(AgentKey.__struct_fields__, row, strict=True))) for row in rows]

    def new_key(self, by: Approver, name: str, label: str = "") -> tuple[str, str]:
        """Make a key for an agent; return its id and the key, which is kept nowhere.

        Raises:
            TapPassConfigError: there is no agent of that name.
        """
        agent, key = self.find(name), new_key(SCOPE)
        key_id, at = self._ids.new("key"), rfc3339(self._clock.time_ns())
        owner = (key_id, self._leaves.org_id, self._leaves.project_id, agent.agent_uuid)

        def write(tx: Tx) -> None:
            tx.execute(_NEW_KEY, (*owner, digest_of(key), SCOPE, label, by.name, at))
            self._note(tx, "key.created", by, agent, key_id)

        self._store.run(write)
        return key_id, key

    def revoke_key(self, by: Approver, name: str, key_id: str) -> None:
        """Revoke one of an agent's keys.

        Raises:
            TapPassConfigError: it has no such key, or that is revoked already.
        """
        agent, at = self.find(name), rfc3339(self._clock.time_ns())

        def write(tx: Tx) -> None:
            if not tx.execute(_REVOKE, (at, self._leaves.org_id, agent.agent_uuid, key_id)).rowcount:
                raise TapPassConfigError(
                    f"the agent `{name}` has no valid key `{key_id}`; see `tappass agents keys {name}`"
                )
            self._note(tx, "key.revoked", by, agent, key_id)

        self._store.run(write)

    def _note(self, tx: Tx, type_: str, by: Approver, agent: AgentRow, key_id: str) -> None:
        details = {"key_id": key_id, "scope": SCOPE}
        tx.append(
            self._leaves.event(type_, actor=by.name, agent_uuid=agent.agent_uuid, name=agent.name, details=details)
        )

    def _named(self, name: str) -> tuple[str, str, str]:
        return (self._leaves.org_id, self._leaves.project_id, name)


def _agent(row: tuple[object, ...]) -> AgentRow:
    return AgentRow(**dict(zip(AgentRow.__struct_fields__, row, strict=True)))  # type: ignore[arg-type]


def _unknown(name: str) -> TapPassConfigError:
    return TapPassConfigError(f"there is no agent `{name}`; `tappass agents list` shows those there are")
