"""Keys on disk, one file each with mode 0600: the one that signs the log, and the one that compares secrets.

The log's key is Ed25519 in PKCS #8 PEM (`openssl pkey` reads it). Its public half is shown as a C2SP signed-note
verifier key: `<name>+<8 hex digits>+<base64 of 0x01 and the 32 bytes>`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tappass import forking
from tappass.errors import TapPassConfigError, TapPassConnectionError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LOG_KEY_FILE, EQUALITY_KEY_FILE = "log.key", "equality.key"

_ED25519 = b"\x01"
# RFC 8410, section 7: everything of a PKCS #8 Ed25519 key but the 32 bytes themselves.
_PKCS8 = bytes.fromhex("302e020100300506032b657004220420")
_PEM = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n"


class LogKey:
    """The private key of the logs in one directory; never shown, never logged."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed

    def __repr__(self) -> str:
        return "LogKey(...)"

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature (64 bytes)."""
        return self._private().sign(message)

    def public(self, name: str) -> PublicKey:
        """Return the public half under the name of a log."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return PublicKey(name, self._private().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def _private(self) -> Ed25519PrivateKey:
        with forking.unforked:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self._seed)


class PublicKey:
    """Who signs checkpoints: a name, and an Ed25519 public key.

    Attributes:
        name: the origin of the log, `tappass-<log_id>`.
        key_id: the first four bytes of SHA-256(name ‖ newline ‖ 0x01 ‖ key), as C2SP signed-note says.
    """

    def __init__(self, name: str, raw: bytes) -> None:
        self.name, self._raw = name, raw
        self.key_id = hashlib.sha256(name.encode() + b"\n" + _ED25519 + raw).digest()[:4]

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read a verifier key.

        Raises:
            TapPassConfigError: it is not one, or its parts do not belong together.
        """
        try:
            name, key_id, encoded = text.strip().split("+", 2)
            raw = base64.b64decode(encoded, validate=True)
            key = cls(name, raw[1:])
            if raw[:1] != _ED25519 or len(raw) != 33 or key.key_id.hex() != key_id or not name:
                raise ValueError("its parts do not belong together")
        except (ValueError, binascii.Error) as error:
            raise TapPassConfigError(
                "that is not a public key of a log; it looks like `tappass-log_…+1f2e3d4c+AY…`, "
                "and `tappass audit key` prints it"
            ) from error
        return key

    @property
    def raw(self) -> bytes:
        """The 32 bytes of the key itself."""
        return self._raw

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + self._raw).decode()}"

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Tell whether the signature is this key's over that message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self._raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def log_key(directory: str | os.PathLike[str]) -> LogKey:
    """Return the key that signs the logs of a directory, made at its first use.

    Raises:
        TapPassConfigError: the file is damaged, or others may read it.
        TapPassConnectionError: the file cannot be read or made.
    """
    path = Path(directory) / LOG_KEY_FILE
    text = kept(path, lambda: _PEM.format(base64.b64encode(_PKCS8 + os.urandom(32)).decode()).encode())
    try:
        der = base64.b64decode(b"".join(text.split(b"\n")[1:2]), validate=True)
    except binascii.Error:
        der = b""
    if not der.startswith(_PKCS8) or len(der) != len(_PKCS8) + 32:
        raise TapPassConfigError(f"{path} does not hold an Ed25519 key in PEM; put the key back from your backup")
    return LogKey(der[len(_PKCS8) :])


def equality_key(directory: str | os.PathLike[str]) -> bytes:
    """Return the 32 bytes under which actions are compared (HMAC), made at their first use; never in a leaf.

    Raises:
        TapPassConfigError: the file is damaged, or others may read it.
        TapPassConnectionError: the file cannot be read or made.
    """
    path = Path(directory) / EQUALITY_KEY_FILE
    key = kept(path, lambda: os.urandom(32))
    if len(key) != 32:
        raise TapPassConfigError(f"{path} does not hold 32 bytes; remove it, and held approvals are asked for again")
    return key


def kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return what a key file holds, made at its first use with mode 0600; of several processes the first wins.

    Raises:
        TapPassConfigError: others may read the file.
        TapPassConnectionError: the file cannot be read or made.
    """
    try:
        if not path.exists():
            _create(path, make())
        if path.stat().st_mode & 0o077:
            raise TapPassConfigError(f"{path} can be read by other users; `chmod 600 {path}`, or make a new key")
        return path.read_bytes()
    except OSError as error:
        raise TapPassConnectionError(f"cannot keep a key in {path} ({error.strerror}); nothing ran") from error


def _create(path: Path, content: bytes) -> None:
    """Make the file whole at once: of several processes the first wins, and all read its key."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
