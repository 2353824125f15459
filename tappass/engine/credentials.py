"""Who shows which key: SHA-256 digests, looked up by digest, compared in constant time, with scopes and an expiry.

A key is its prefix, which names its scope, and 32 random bytes; it is shown once and kept nowhere. What a lookup found
is believed for half a second, so a revocation counts on every server within a second without a question a call.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict

import msgspec

from tappass.engine.store.port import Store
from tappass.wire.ids import SYSTEM_CLOCK, Clock, rfc3339

AGENT, ADMIN, APPROVER, AUDITOR = "agent", "admin", "approver", "auditor"
PREFIXES = {AGENT: "tp_", ADMIN: "tp_admin_", APPROVER: "tp_approver_", AUDITOR: "tp_auditor_"}
SCOPES = tuple(sorted(PREFIXES))

# Longer than any key there is: not worth a digest.
LONGEST_KEY = 200
BELIEVED_NS = 500_000_000
_REMEMBERED = 4096

_AGENT = "SELECT name FROM agent WHERE org_id = ? AND agent_uuid = ? AND active = 1"
_PERSON = "SELECT name FROM person WHERE org_id = ? AND person_id = ? AND active = 1"


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who a request comes from, by the key it shows; `name` is the agent's, the person's, or the key's label."""

    key_id: str
    org_id: str
    project_id: str
    agent_uuid: str = ""
    person_id: str = ""
    name: str = ""
    scopes: tuple[str, ...] = ()

    def may(self, *scopes: str) -> bool:
        """Tell whether the key has one of these scopes."""
        return any(scope in scopes for scope in self.scopes)


class KeyRow(msgspec.Struct, frozen=True, array_like=True):
    """A key as the database holds it."""

    key_id: str
    org_id: str
    project_id: str
    agent_uuid: str
    person_id: str
    digest: bytes
    scopes: str
    label: str
    expires_at: str
    revoked_at: str


def digest_of(key: str) -> bytes:
    """Return what the database holds in place of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def new_key(scope: str) -> str:
    """Return a fresh key of that scope."""
    return f"{PREFIXES[scope]}{secrets.token_urlsafe(32)}"


class Credentials:
    """From a key to its principal, over all organisations of one database."""

    def __init__(self, store: Store, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store, self._clock = store, clock
        self._known: OrderedDict[bytes, tuple[int, Principal]] = OrderedDict()

    def remembered(self, key: str) -> Principal | None:
        """Return whose key it is, if that was found out within the last half second; asks nobody."""
        found = self._known.get(digest_of(key))
        return found[1] if found is not None and self._clock.monotonic_ns() < found[0] else None

    def principal(self, key: str) -> Principal | None:
        """Return whose key it is; None if nobody's, or no longer valid.

        Raises:
            TapPassConnectionError: the database cannot be asked.
        """
        if not key.startswith("tp_") or len(key) > LONGEST_KEY:
            return None
        digest = digest_of(key)
        believed = self._clock.monotonic_ns() + BELIEVED_NS
        found = self.holder(digest)
        if found is None:
            self._known.pop(digest, None)
            return None
        self._known[digest] = (believed, found)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found

    def holder(self, digest: bytes) -> Principal | None:
        """Return whose the key of that digest is, as the database has it now; None if nobody's, or no longer valid.

        Raises:
            TapPassConnectionError: the database cannot be asked.
        """
        row = self._store.key_by_digest(digest)
        return None if row is None else self._valid(KeyRow(*row), digest)

    def forget(self) -> None:
        """Ask the database again for every key: something changed."""
        self._known.clear()

    def _valid(self, row: KeyRow, digest: bytes) -> Principal | None:
        if not hmac.compare_digest(bytes(row.digest), digest) or row.revoked_at:
            return None
        if row.expires_at and row.expires_at <= rfc3339(self._clock.time_ns()):
            return None
        name = self._owner(row)
        if name is None:
            return None
        return Principal(
            key_id=row.key_id,
            org_id=row.org_id,
            project_id=row.project_id,
            agent_uuid=row.agent_uuid,
            person_id=row.person_id,
            name=name,
            scopes=tuple(row.scopes.split(",")),
        )

    def _owner(self, row: KeyRow) -> str | None:
        """Return who holds a key; None if they were deactivated."""
        if not (row.agent_uuid or row.person_id):
            return row.label
        sql, owner = (_AGENT, row.agent_uuid) if row.agent_uuid else (_PERSON, row.person_id)
        found = self._store.scoped(row.org_id).read.row(sql, (row.org_id, owner))
        return found[0] if found is not None else None
