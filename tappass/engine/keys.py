"""Keys of one organisation: made, rotated and revoked, each on the record with who did it."""

from __future__ import annotations

import msgspec

from tappass.engine.credentials import ADMIN, digest_of, new_key
from tappass.engine.leaves import Leaves
from tappass.engine.store.port import Store, Tx
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock, Ids, rfc3339

_ANY = "SELECT 1 FROM api_key WHERE org_id = ? AND scopes = ?"
_NEW = (
    "INSERT INTO api_key (key_id, org_id, project_id, agent_uuid, person_id, digest, scopes, label, created_by,"
    " created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class MadeKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key just made: it is shown this once."""

    key_id: str
    key: str
    scope: str

    def __repr__(self) -> str:
        return f"MadeKey(key_id={self.key_id!r}, scope={self.scope!r}, key=…)"


class Keys:
    """The keys of one organisation."""

    def __init__(self, store: Store, leaves: Leaves, clock: Clock = SYSTEM_CLOCK, ids: Ids = UUID_IDS) -> None:
        self._store, self._leaves = store, leaves
        self._clock, self._ids = clock, ids

    def first(self, by: str) -> MadeKey | None:
        """Make the organisation's first admin key; None where there ever was one."""
        if self._store.read.row(_ANY, (self._leaves.org_id, ADMIN)) is not None:
            return None

        def write(tx: Tx) -> MadeKey | None:
            # Of several servers that start at once, one makes it.
            if tx.execute(_ANY, (self._leaves.org_id, ADMIN)).fetchone() is not None:
                return None
            return self._make(tx, by, ADMIN, label="first")

        return self._store.run(write)

    def _make(
        self,
        tx: Tx,
        by: str,
        scope: str,
        *,
        label: str = "",
        agent_uuid: str = "",
        person_id: str = "",
        expires: str = "",
    ) -> MadeKey:
        made = MadeKey(key_id=self._ids.new("key"), key=new_key(scope), scope=scope)
        owner = (made.key_id, self._leaves.org_id, self._leaves.project_id, agent_uuid, person_id)
        at = rfc3339(self._clock.time_ns())
        tx.execute(_NEW, (*owner, digest_of(made.key), scope, label, by, at, expires))
        details = {"key_id": made.key_id, "scope": scope}
        tx.append(self._leaves.event("key.created", actor=by, agent_uuid=agent_uuid, name=label, details=details))
        return made
