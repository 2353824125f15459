"""The keys that correlation tokens are signed with: one seed a directory, one key pair an organisation.

The seed lies in a file of mode 0600, apart from the log's key. The public halves stand in the database, where every
server that shares it finds them: each signs with a key of its own, and no private key ever travels. A key that was
rotated out still verifies until the last token it signed has expired.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from tappass.engine.audit.keys import kept
from tappass.engine.leaves import Leaves
from tappass.engine.store.port import Store, Tx
from tappass.errors import TapPassConfigError, TapPassConnectionError
from tappass.verify import LEEWAY_S, LONGEST_LIFE_S, Jwk, decoded, encoded
from tappass.wire.ids import SYSTEM_CLOCK, Clock, rfc3339

ISSUER_KEY_FILE = "issuer.key"
PURPOSE = "correlation"

_SEED_BYTES = 32
_OVERLAP_NS = (LONGEST_LIFE_S + LEEWAY_S) * 1_000_000_000

_KNOWN = "SELECT public_key, retired_at FROM signing_key WHERE key_id = ? AND org_id = ? AND purpose = ?"
_NEW = (
    "INSERT INTO signing_key (key_id, org_id, purpose, public_key, created_at) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO NOTHING"
)
_RETIRE = "UPDATE signing_key SET retired_at = ? WHERE key_id = ? AND org_id = ? AND retired_at = ''"
_STOP = "UPDATE signing_key SET retired_at = ? WHERE key_id = ? AND org_id = ? AND (retired_at = '' OR retired_at > ?)"
_ALL = (
    "SELECT key_id, public_key, created_at, retired_at FROM signing_key WHERE org_id = ? AND purpose = ?"
    " ORDER BY created_at, key_id"
)


class SigningKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key as the database holds it; `retired_at` is when it stops verifying, "" while it signs."""

    key_id: str
    public_key: str
    created_at: str
    retired_at: str


class Seed:
    """Where key pairs come from: a file, made at its first use, or 32 bytes that live as long as this object."""

    def __init__(self, directory: str | os.PathLike[str] | None) -> None:
        self.path = Path(directory) / ISSUER_KEY_FILE if directory is not None else None
        self._state: tuple[int, ...] = ()
        self._replaced = b""
        self._bytes = b"" if directory is not None else os.urandom(_SEED_BYTES)

    def read(self) -> bytes:
        """Return the seed; a file that another process replaced is read again.

        Raises:
            TapPassConfigError: the file is damaged, or others may read it.
            TapPassConnectionError: the file cannot be read or made.
        """
        if self.path is None:
            return self._bytes
        if not self._bytes or _state_of(self.path) != self._state:
            found = kept(self.path, lambda: os.urandom(_SEED_BYTES))
            if len(found) != _SEED_BYTES:
                raise TapPassConfigError(
                    f"{self.path} does not hold {_SEED_BYTES} bytes; put it back from your backup, or remove it and "
                    "tokens are signed with a new key"
                )
            self._bytes, self._state = found, _state_of(self.path)
        return self._bytes

    def previous(self) -> bytes:
        """Return the seed before this one, b"" if there was none."""
        if self.path is None:
            return self._replaced
        old = _old(self.path)
        return kept(old, bytes) if old.exists() else b""

    def renew(self) -> None:
        """Replace the seed; the one before stays beside it, so that what it signs with can be retired.

        Raises:
            TapPassConnectionError: the files cannot be written.
        """
        before, fresh = self.read(), os.urandom(_SEED_BYTES)
        if self.path is None:
            self._replaced, self._bytes = before, fresh
            return
        try:
            _put(_old(self.path), before)
            _put(self.path, fresh)
        except OSError as error:
            raise TapPassConnectionError(f"cannot replace the key in {self.path} ({error.strerror})") from error


def _old(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def _put(path: Path, content: bytes) -> None:
    """Write a file of mode 0600, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _state_of(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


class KeyPair:
    """One organisation's private key, from the seed; never shown, never logged.

    Attributes:
        key_id: the RFC 7638 thumbprint of the public key.
        public: its 32 bytes in base64url.
    """

    def __init__(self, seed: bytes, org_id: str) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        # A key an organisation: a token that one's key signed cannot speak for another, whatever it claims.
        derived = HKDF(SHA256(), _SEED_BYTES, salt=None, info=b"tappass-correlation\0" + org_id.encode()).derive(seed)
        self._private = Ed25519PrivateKey.from_private_bytes(derived)
        self.public = encoded(self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
        text = f'{{"crv":"Ed25519","kty":"OKP","x":"{self.public}"}}'
        self.key_id = encoded(hashlib.sha256(text.encode()).digest())

    def __repr__(self) -> str:
        return f"KeyPair(key_id={self.key_id!r})"

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature (64 bytes)."""
        return self._private.sign(message)


class SigningKeys:
    """An organisation's keys: the one that signs here, and those that verify.

    Args:
        store: where public keys are kept.
        leaves: how a new or a rotated key is put into the log.
        directory: where the seed lies; None for one that lives as long as this object.
        clock: what time it is.
    """

    def __init__(
        self,
        store: Store,
        leaves: Leaves,
        directory: str | os.PathLike[str] | None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._store, self._leaves, self._clock = store, leaves, clock
        self._seed = Seed(directory)
        self._pair: tuple[bytes, KeyPair] | None = None

    def current(self, by: str = "") -> KeyPair:
        """Return the key that signs here; its public half is in the database before anything is signed with it.

        Raises:
            TapPassConfigError: the key was retired, or the file that holds its seed is not as it should be.
            TapPassConnectionError: it cannot be read, made or recorded.
        """
        pair = self._here(by)
        row = self._row(pair.key_id)
        if row is None or row[1]:
            raise TapPassConfigError(
                f"the key in {self._seed.path or 'memory'} was retired, so it signs no correlation token; "
                "`tappass issuer rotate` makes another"
            )
        return pair

    def _here(self, by: str) -> KeyPair:
        seed = self._seed.read()
        if self._pair is None or self._pair[0] != seed:
            pair = KeyPair(seed, self._leaves.org_id)
            if self._row(pair.key_id) is None:
                self._register(pair, by)
            self._pair = (seed, pair)
        return self._pair[1]

    def _register(self, pair: KeyPair, by: str) -> None:
        """Record a new key; the one that it replaces verifies until its last token has expired."""
        org_id, now = self._leaves.org_id, self._clock.time_ns()
        until, before = rfc3339(now + _OVERLAP_NS), self._seed.previous()
        old = KeyPair(before, org_id).key_id if before else ""

        def write(tx: Tx) -> None:
            if not tx.execute(_NEW, (pair.key_id, org_id, PURPOSE, pair.public, rfc3339(now))).rowcount:
                return
            kind, details = "signing_key.created", {"key_id": pair.key_id, "purpose": PURPOSE}
            if old and tx.execute(_RETIRE, (until, old, org_id)).rowcount:
                kind, details = "signing_key.rotated", details | {"replaces": old, "retires_at": until}
            tx.append(self._leaves.event(kind, actor=by, details=details))

        self._store.run(write)

    def public(self, key_id: str) -> bytes | None:
        """Return the 32 bytes of a key that verifies now, None for any other."""
        row = self._row(key_id)
        return decoded(row[0]) if row is not None and (not row[1] or row[1] > self._now()) else None

    def all(self) -> list[SigningKey]:
        """Return every key there ever was, oldest first."""
        rows = self._store.read.query(_ALL, (self._leaves.org_id, PURPOSE))
        return [SigningKey(**dict(zip(SigningKey.__struct_fields__, row, strict=True))) for row in rows]

    def published(self) -> tuple[Jwk, ...]:
        """Return the keys whose tokens may still be presented."""
        now = self._now()
        return tuple(
            Jwk(kid=key.key_id, x=key.public_key) for key in self.all() if not key.retired_at or key.retired_at > now
        )

    def rotate(self, by: str) -> str:
        """Sign with a new key from now on; return its id.

        Of several organisations in one directory, the others follow at their next token.

        Raises:
            TapPassConnectionError: it cannot be written or recorded.
        """
        # Where none has signed yet, there is none to be replaced.
        self._here(by)
        self._seed.renew()
        return self.current(by).key_id

    def retire(self, key_id: str, by: str) -> None:
        """Refuse a key's tokens from now on, those already issued included: for a key that was lost or stolen.

        Raises:
            TapPassConfigError: no such key verifies here.
            TapPassConnectionError: it cannot be recorded.
        """
        now = self._now()

        def write(tx: Tx) -> None:
            if not tx.execute(_STOP, (now, key_id, self._leaves.org_id, now)).rowcount:
                raise TapPassConfigError(f"`{key_id}` is no key that verifies here; see `tappass issuer keys`")
            details = {"key_id": key_id, "purpose": PURPOSE}
            tx.append(self._leaves.event("signing_key.retired", actor=by, details=details))

        self._store.run(write)

    def _row(self, key_id: str) -> tuple[str, str] | None:
        row = self._store.read.row(_KNOWN, (key_id, self._leaves.org_id, PURPOSE))
        return (row[0], row[1]) if row is not None else None

    def _now(self) -> str:
        return rfc3339(self._clock.time_ns())
