"""The approver's key: who may accept a policy, and later decide what waits for a person.

`tp_approver_` and 32 random bytes. The database holds its SHA-256; the key itself lies in a file of mode 0600 outside
of the project, so that it is in no checkout and no backup of one. It keeps out the model and what it makes tools do
inside the project; not code that runs as the approver's own user and goes looking for it.
"""

from __future__ import annotations

import getpass
import hmac
import os
from pathlib import Path

import msgspec

from tappass.engine.audit.keys import kept
from tappass.engine.credentials import APPROVER, digest_of, new_key
from tappass.engine.leaves import Leaves
from tappass.engine.store.port import Store, Tx
from tappass.engine.words import worded
from tappass.errors import TapPassConfigError
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock, Ids, rfc3339

SCOPE = APPROVER
VARIABLE = "TAPPASS_APPROVER_KEY"

_KEYS = (
    "SELECT api_key.key_id, api_key.digest, person.person_id, person.name FROM api_key JOIN person"
    " ON person.person_id = api_key.person_id WHERE api_key.org_id = ? AND api_key.scopes = ? AND revoked_at = ''"
    " AND (expires_at = '' OR expires_at > ?) AND person.active = 1"
)
_PERSON = "SELECT person_id FROM person WHERE org_id = ? AND name = ?"
_NEW_PERSON = "INSERT INTO person (person_id, org_id, name, roles, created_at) VALUES (?, ?, ?, ?, ?)"
_NEW_KEY = (
    "INSERT INTO api_key (key_id, org_id, project_id, person_id, digest, scopes, label, created_by, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_REVOKE = "UPDATE api_key SET revoked_at = ? WHERE key_id = ?"
_ALL = (
    "SELECT person.name, api_key.key_id, api_key.created_by, api_key.created_at, api_key.revoked_at FROM api_key"
    " JOIN person ON person.person_id = api_key.person_id WHERE api_key.org_id = ? AND api_key.scopes = ?"
    " ORDER BY api_key.created_at, api_key.key_id"
)


class Approver(msgspec.Struct, frozen=True, kw_only=True):
    """A person who showed an approver key; `name` is what the log calls them (`os:ada`)."""

    person_id: str
    name: str
    key_id: str


class ApproverKey(msgspec.Struct, frozen=True, kw_only=True):
    """An approver's key, without the key: whose it is, who made it, until when it was valid."""

    name: str
    key_id: str
    created_by: str
    created_at: str
    revoked_at: str


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """Where the key lies, whose it is, and whether it was made just now."""

    path: Path
    name: str
    fresh: bool


def identity() -> str:
    """Return what the log calls the user of this process."""
    try:
        return f"os:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"os:{os.getuid()}"


class Approvers:
    """The approver keys of one database.

    Args:
        store: the database; its log must have begun.
        leaves: how a new key is put into the log.
        clock: what time it is.
        ids: where ids come from.
    """

    def __init__(self, store: Store, leaves: Leaves, clock: Clock = SYSTEM_CLOCK, ids: Ids = UUID_IDS) -> None:
        self._store, self._leaves = store, leaves
        self._clock, self._ids = clock, ids

    def file(self) -> Path:
        """Return where this database's key is kept for this user."""
        head = self._store.read.head(self._leaves.org_id)
        if head is None:
            raise TapPassConfigError(f"the log in {self._store.path} has not begun; run `tappass init`")
        config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        return Path(config) / "tappass" / "keys" / head.log_id

    def exist(self) -> bool:
        """Tell whether anybody holds a key."""
        return bool(self._store.read.query(_KEYS, self._valid()))

    def make(self, *, anew: bool = False) -> Made:
        """Make this user's key, unless there is one; `anew` replaces it and revokes the old one.

        Raises:
            TapPassConfigError: there is one, but not in this user's file; or others may read that file.
            TapPassConnectionError: it cannot be recorded.
        """
        path = self.file()
        if anew:
            path.unlink(missing_ok=True)
        fresh = not path.exists()
        # Looked for once more: another thread or process may have made both since.
        if fresh and not anew and self.exist() and not path.exists():
            raise TapPassConfigError(
                f"this database has an approver key, but not in {path}; set {VARIABLE}, "
                f"or replace it with `tappass init --new-approver-key`"
            )
        key = _kept(path)
        # A process that ended between the file and the row is made good for here.
        self._register(digest_of(key), anew)
        self.verify(key, f"the key in {path}")
        return Made(path=path, name=identity(), fresh=fresh)

    def _register(self, digest: bytes, anew: bool) -> None:
        who, at = identity(), rfc3339(self._clock.time_ns())
        org = self._leaves.org_id

        def write(tx: Tx) -> None:
            known = tx.execute(_KEYS, self._valid()).fetchall()
            if any(hmac.compare_digest(key[1], digest) for key in known) or (known and not anew):
                return
            row = tx.execute(_PERSON, (org, who)).fetchone()
            person_id = row[0] if row else self._ids.new("per")
            if row is None:
                tx.execute(_NEW_PERSON, (person_id, org, who, SCOPE, at))
            for old in known:
                if old[2] == person_id:
                    tx.execute(_REVOKE, (at, old[0]))
                    tx.append(self._leaves.event("key.revoked", actor=who, details={"key_id": old[0], "scope": SCOPE}))
            key_id = self._ids.new("key")
            project = self._leaves.project_id
            tx.execute(_NEW_KEY, (key_id, org, project, person_id, digest, SCOPE, "approver", who, at))
            tx.append(self._leaves.event("key.created", actor=who, details={"key_id": key_id, "scope": SCOPE}))

        self._store.run(write)

    def all(self) -> list[ApproverKey]:
        """Return every approver's key there ever was, oldest first."""
        rows = self._store.read.query(_ALL, (self._leaves.org_id, SCOPE))
        return [ApproverKey(**dict(zip(ApproverKey.__struct_fields__, row, strict=True))) for row in rows]

    def add(self, by: Approver, name: str) -> str:
        """Make a key for another person; return it: it is kept nowhere.

        Raises:
            TapPassConfigError: the name is not usable, or that person has a key.
        """
        name = worded(name, "an approver's name", longest=200)
        if not name.isprintable():
            raise TapPassConfigError("an approver's name is printable text")
        key, at, org = new_key(SCOPE), rfc3339(self._clock.time_ns()), self._leaves.org_id

        def write(tx: Tx) -> None:
            if any(row[3] == name for row in tx.execute(_KEYS, self._valid()).fetchall()):
                raise TapPassConfigError(f"`{name}` is an approver already; `tappass approvers revoke` comes first")
            row = tx.execute(_PERSON, (org, name)).fetchone()
            person_id, key_id = row[0] if row else self._ids.new("per"), self._ids.new("key")
            if row is None:
                tx.execute(_NEW_PERSON, (person_id, org, name, SCOPE, at))
            project = self._leaves.project_id
            tx.execute(_NEW_KEY, (key_id, org, project, person_id, digest_of(key), SCOPE, "approver", by.name, at))
            details = {"key_id": key_id, "scope": SCOPE}
            tx.append(self._leaves.event("key.created", actor=by.name, name=name, details=details))

        self._store.run(write)
        return key

    def revoke(self, by: Approver, name: str) -> int:
        """Revoke every key of a person; return how many there were.

        Raises:
            TapPassConfigError: that person has none, or nobody else has one.
        """
        at = rfc3339(self._clock.time_ns())

        def write(tx: Tx) -> int:
            keys = tx.execute(_KEYS, self._valid()).fetchall()
            theirs = [key[0] for key in keys if key[3] == name]
            if not theirs:
                raise TapPassConfigError(f"`{name}` has no valid approver key; see `tappass approvers list`")
            if len(theirs) == len(keys):
                raise TapPassConfigError(f"`{name}` is the only approver; add another before revoking this one")
            for key_id in theirs:
                tx.execute(_REVOKE, (at, key_id))
                details = {"key_id": key_id, "scope": SCOPE}
                tx.append(self._leaves.event("key.revoked", actor=by.name, name=name, details=details))
            return len(theirs)

        return self._store.run(write)

    def present(self) -> Approver:
        """Return whose key is shown: by `TAPPASS_APPROVER_KEY`, else by this user's file.

        Raises:
            TapPassConfigError: none is shown, or it is not a key of this database.
        """
        key = os.environ.get(VARIABLE, "").strip()
        if key:
            return self.verify(key, f"the key in {VARIABLE}")
        path = self.file()
        if not path.exists():
            raise TapPassConfigError(
                f"this needs the approver key, which is neither in {VARIABLE} nor in {path}; `tappass init` makes one"
            )
        return self.verify(_kept(path), f"the key in {path}")

    def verify(self, key: str, what: str = "that key") -> Approver:
        """Return whose key it is; every digest is compared, in constant time.

        Raises:
            TapPassConfigError: it is nobody's, or no longer valid.
        """
        digest, found = digest_of(key), None
        for key_id, known, person_id, name in self._store.read.query(_KEYS, self._valid()):
            if hmac.compare_digest(known, digest):
                found = Approver(person_id=person_id, name=name, key_id=key_id)
        if found is None:
            raise TapPassConfigError(f"{what} is not a valid approver key of the database {self._store.path}")
        return found

    def _valid(self) -> tuple[str, str, str]:
        return (self._leaves.org_id, SCOPE, rfc3339(self._clock.time_ns()))


def _kept(path: Path) -> str:
    """Return the key in that file, made if there is no file."""
    return kept(path, lambda: f"{new_key(SCOPE)}\n".encode()).decode("ascii", "replace").strip()
