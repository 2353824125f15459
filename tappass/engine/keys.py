"""Keys of one organisation: made, rotated and revoked, each on the record with who did it."""

from __future__ import annotations

import msgspec

from tappass.engine.credentials import ADMIN, AGENT, APPROVER, SCOPES, digest_of, new_key
from tappass.engine.leaves import Leaves
from tappass.engine.store.port import KEY, Store, Tx
from tappass.engine.words import worded
from tappass.errors import TapPassConfigError
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock, Ids, rfc3339

CREATED, ROTATED, REVOKED = "key.created", "key.rotated", "key.revoked"
LONGEST_OVERLAP_S = 30 * 86_400

_ANY = "SELECT 1 FROM api_key WHERE org_id = ? AND scopes = ?"
_NEW = (
    "INSERT INTO api_key (key_id, org_id, project_id, agent_uuid, person_id, digest, scopes, label, created_by,"
    " created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_COLUMNS = (
    "key_id, scopes, agent_uuid, api_key.person_id, coalesce(person.name, ''), label, created_by,"
    " api_key.created_at, expires_at, revoked_at"
)
_FROM = f"SELECT {_COLUMNS} FROM api_key LEFT JOIN person ON person.person_id = api_key.person_id"  # noqa: S608
_ALL = f"{_FROM} WHERE api_key.org_id = ? ORDER BY api_key.created_at, key_id"
_ONE = f"{_FROM} WHERE api_key.org_id = ? AND key_id = ?"
_VALID = (
    "SELECT key_id FROM api_key WHERE org_id = ? AND scopes = ? AND revoked_at = '' AND (expires_at = '' OR"
    " expires_at > ?)"
)
_END = "UPDATE api_key SET expires_at = ? WHERE org_id = ? AND key_id = ?"
_REVOKE = "UPDATE api_key SET revoked_at = ? WHERE org_id = ? AND key_id = ?"
_AGENT_NAMED = "SELECT agent_uuid FROM agent WHERE org_id = ? AND project_id = ? AND name = ? AND active = 1"
_PERSON = "SELECT person_id FROM person WHERE org_id = ? AND name = ?"
_NEW_PERSON = "INSERT INTO person (person_id, org_id, name, roles, created_at) VALUES (?, ?, ?, ?, ?)"


class MadeKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key just made: it is shown this once."""

    key_id: str
    key: str
    scope: str

    def __repr__(self) -> str:
        return f"MadeKey(key_id={self.key_id!r}, scope={self.scope!r}, key=…)"


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A key, without the key: whose it is, who made it, until when it is good ("" for ever)."""

    key_id: str
    scope: str
    agent_uuid: str
    person_id: str
    name: str
    label: str
    created_by: str
    created_at: str
    expires_at: str
    revoked_at: str


class Keys:
    """The keys of one organisation; `by` is what the log calls who makes or ends one."""

    def __init__(self, store: Store, leaves: Leaves, clock: Clock = SYSTEM_CLOCK, ids: Ids = UUID_IDS) -> None:
        self._store, self._leaves = store.scoped(leaves.org_id), leaves
        self._clock, self._ids = clock, ids

    def all(self) -> list[KeyInfo]:
        """Return every key there ever was, oldest first."""
        return [_info(row) for row in self._store.read.query(_ALL, (self._leaves.org_id,))]

    def first(self, by: str) -> MadeKey | None:
        """Make the organisation's first admin key; None where there ever was one."""
        wanted = (self._leaves.org_id, ADMIN)
        if self._store.read.row(_ANY, wanted) is not None:
            return None
        # Of several servers that start at once, one makes it: looked for once more in the transaction.
        return self._store.run(
            lambda tx: None if tx.execute(_ANY, wanted).fetchone() else self._make(tx, by, ADMIN, label="first")
        )

    def create(self, by: str, scope: str, *, name: str = "", label: str = "", expires_in_s: int = 0) -> MadeKey:
        """Make a key.

        Args:
            by: who makes it.
            scope: agent, admin, approver or auditor.
            name: whose it is: a registered agent's for an agent key, else a person's; an approver is a person.
            label: what it is for.
            expires_in_s: how long it is good, in seconds; 0 for ever.

        Raises:
            TapPassConfigError: the scope is unknown, there is no such agent, or a name is missing.
        """
        if scope not in SCOPES:
            raise TapPassConfigError(f"`{scope}` is no scope of a key; use one of {', '.join(SCOPES)}")
        if scope in (AGENT, APPROVER) or name:
            name = worded(name, f"whose {scope} key it is", longest=200)

        def write(tx: Tx) -> MadeKey:
            owner = self._owner(tx, scope, name)
            return self._make(tx, by, scope, label=label or name, owner=owner, expires=self._in(expires_in_s))

        return self._store.run(write)

    def rotate(self, by: str, key_id: str, *, overlap_s: int = 0, expires_in_s: int = 0) -> MadeKey:
        """Make a key in another one's place; that one stays good for `overlap_s` seconds, or ends at once.

        Raises:
            TapPassConfigError: there is no valid key of that id, or the overlap is over 30 days.
        """
        if not 0 <= overlap_s <= LONGEST_OVERLAP_S:
            raise TapPassConfigError("an overlap is at most 30 days")

        def write(tx: Tx) -> MadeKey:
            old = self._valid(tx, key_id)
            owner = (old.agent_uuid, old.person_id)
            made = self._make(tx, by, old.scope, label=old.label, owner=owner, expires=self._in(expires_in_s))
            if overlap_s:
                ends = self._in(overlap_s)
                tx.execute(_END, (min(ends, old.expires_at or ends), self._leaves.org_id, key_id))
                self._note(tx, ROTATED, by, old, made.key_id)
            else:
                self._revoke(tx, by, old)
            return made

        return self._store.run(write)

    def revoke(self, by: str, key_id: str) -> None:
        """End a key; every server refuses it within a second.

        Raises:
            TapPassConfigError: there is no valid key of that id, or it is the last admin or approver key.
        """

        def write(tx: Tx) -> None:
            old = self._valid(tx, key_id)
            valid = tx.execute(_VALID, (self._leaves.org_id, old.scope, self._now())).fetchall()
            if old.scope in (ADMIN, APPROVER) and [row[0] for row in valid] == [key_id]:
                raise TapPassConfigError(f"`{key_id}` is the last valid {old.scope} key; make another one first")
            self._revoke(tx, by, old)

        self._store.run(write)

    def _revoke(self, tx: Tx, by: str, old: KeyInfo) -> None:
        tx.execute(_REVOKE, (self._now(), self._leaves.org_id, old.key_id))
        self._note(tx, REVOKED, by, old)

    def _valid(self, tx: Tx, key_id: str) -> KeyInfo:
        row = tx.execute(_ONE, (self._leaves.org_id, key_id)).fetchone()
        found = _info(row) if row is not None else None
        if found is None or found.revoked_at or (found.expires_at and found.expires_at <= self._now()):
            raise TapPassConfigError(f"there is no valid key `{key_id}`; `tappass keys list` shows all")
        return found

    def _owner(self, tx: Tx, scope: str, name: str) -> tuple[str, str]:
        """Return the agent or the person that a key is for, "" for neither; a person is made where there is none."""
        org_id, project_id = self._leaves.org_id, self._leaves.project_id
        if scope == AGENT:
            row = tx.execute(_AGENT_NAMED, (org_id, project_id, name)).fetchone()
            if row is None:
                raise TapPassConfigError(f"there is no agent `{name}`; `tappass agents list` shows those there are")
            return row[0], ""
        if not name:
            return "", ""
        row = tx.execute(_PERSON, (org_id, name)).fetchone()
        if row is not None:
            return "", row[0]
        person_id = self._ids.new("per")
        tx.execute(_NEW_PERSON, (person_id, org_id, name, scope, self._now()))
        return "", person_id

    def _make(
        self, tx: Tx, by: str, scope: str, *, label: str, owner: tuple[str, str] = ("", ""), expires: str = ""
    ) -> MadeKey:
        made = MadeKey(key_id=self._ids.new("key"), key=new_key(scope), scope=scope)
        place = (made.key_id, self._leaves.org_id, self._leaves.project_id, *owner)
        tx.execute(_NEW, (*place, digest_of(made.key), scope, label, by, self._now(), expires))
        details = {"key_id": made.key_id, "scope": scope} | ({"expires_at": expires} if expires else {})
        tx.append(self._leaves.event(CREATED, actor=by, agent_uuid=owner[0], name=label, details=details))
        tx.notify(self._leaves.org_id, KEY)
        return made

    def _now(self) -> str:
        return rfc3339(self._clock.time_ns())

    def _in(self, seconds: int) -> str:
        """Return the time in so many seconds, "" for 0, which is never."""
        return rfc3339(self._clock.time_ns() + seconds * 1_000_000_000) if seconds else ""

    def _note(self, tx: Tx, type_: str, by: str, old: KeyInfo, new: str = "") -> None:
        details = {"key_id": old.key_id, "scope": old.scope} | ({"new": new} if new else {})
        tx.append(self._leaves.event(type_, actor=by, agent_uuid=old.agent_uuid, name=old.label, details=details))
        tx.notify(self._leaves.org_id, KEY)


def _info(row: tuple[object, ...]) -> KeyInfo:
    return KeyInfo(**dict(zip(KeyInfo.__struct_fields__, row, strict=True)))  # type: ignore[arg-type]
