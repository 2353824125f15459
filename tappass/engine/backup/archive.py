"""The file that a backup is: a zip of a signed manifest and of each table's rows, the same for every database.

`manifest.json` says what there is, with a SHA-256 of each member; `manifest.sig` is its Ed25519 signature by the key of
the log, in base64. A table's rows are pieces, each 4 bytes of length and a MessagePack array of rows.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import msgspec

from tappass.engine.audit.keys import LogKey, PublicKey
from tappass.errors import TapPassConfigError
from tappass.wire.codec import canonical

FORMAT = 1
SIGNER = "tappass-backup"

_MANIFEST, _SIGNATURE, _ROWS, _KEYS = "manifest.json", "manifest.sig", ".rows", "keys/"
_PIECE_ROWS, _PIECE_BYTES = 200, 1 << 20
_MOST_MANIFEST, _MOST_PIECE, _MOST_KEY = 1 << 24, 1 << 30, 1 << 16

Row = tuple[Any, ...]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Row]).decode


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One table's rows in a backup; `bytes` and `sha256` are of its member."""

    name: str
    columns: tuple[str, ...]
    rows: int
    bytes: int
    sha256: str


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """Where one log stood; `checkpoint` is the note over exactly its events in the backup."""

    log_no: int
    log_id: str
    org_id: str
    epoch: int
    size: int
    checkpoint: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds.

    Attributes:
        format: of the archive.
        version: of the tappass that made it.
        created_at: RFC 3339, UTC: the moment that all of it shows.
        storage: `sqlite` or `postgresql`; it can be restored to either.
        schema: the revision of its tables; `tables` stands for their very text.
        key: the public key that signed it, and the logs in it.
        logs: each log.
        tables: each table.
        keys: the key files that it holds, usually none.
    """

    format: int
    version: str
    created_at: str
    storage: str
    schema: str
    tables_number: int
    key: str
    logs: tuple[Log, ...]
    tables: tuple[Table, ...]
    keys: tuple[str, ...] = ()

    def table(self, name: str) -> Table | None:
        """Return one table, None if there is none of that name."""
        return next((table for table in self.tables if table.name == name), None)


def damaged(path: Path, what: str) -> TapPassConfigError:
    """Return the error for a file that is no sound backup."""
    return TapPassConfigError(f"{path} is not a sound backup: {what}; nothing was restored")


class Writing:
    """A backup that is being written."""

    def __init__(self, path: Path) -> None:
        # Keys' digests and contents stand in it: nobody else on the machine needs to read them.
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        self.tables: list[Table] = []

    def table(self, name: str, columns: tuple[str, ...], rows: Iterable[Row]) -> Iterator[int]:
        """Write a table; yields how many rows are written so far."""
        digest, count, size = hashlib.sha256(), 0, 0
        with self._zip.open(f"{name}{_ROWS}", "w", force_zip64=True) as member:
            for piece in _pieces(rows):
                body = _encode(piece)
                framed = len(body).to_bytes(4, "big") + body
                member.write(framed)
                digest.update(framed)
                size += len(framed)
                count += len(piece)
                yield count
        self.tables.append(Table(name=name, columns=columns, rows=count, bytes=size, sha256=digest.hexdigest()))

    def key_file(self, path: Path) -> None:
        """Write a key file."""
        self._zip.writestr(f"{_KEYS}{path.name}", path.read_bytes())

    def end(self, manifest: Manifest, key: LogKey) -> None:
        """Write the manifest, sign it, bring all to disk."""
        body = canonical(manifest)
        self._zip.writestr(_MANIFEST, body)
        self._zip.writestr(_SIGNATURE, base64.b64encode(key.sign(_signed(body))))
        self._zip.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        """Let go of the file, whole or not."""
        with suppress(OSError, ValueError):
            self._zip.close()
        self._file.close()


def _pieces(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield rows in pieces that are small in number and in memory."""
    piece, size = [], 0
    for row in rows:
        piece.append(row)
        size += sum([len(value) for value in row if isinstance(value, bytes | str)])
        if len(piece) >= _PIECE_ROWS or size >= _PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _signed(body: bytes) -> bytes:
    return f"{SIGNER}\n".encode() + body


class Reading:
    """A backup, its manifest's signature checked by the key that the manifest names.

    Raises:
        TapPassConfigError: it is none, or it was changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise damaged(path, "it cannot be read as one") from error
        try:
            body = self._small(_MANIFEST, _MOST_MANIFEST)
            self.manifest = msgspec.json.decode(body, type=Manifest)
            self.key = PublicKey.parse(self.manifest.key)
            sound = self.key.verify(_signed(body), base64.b64decode(self._small(_SIGNATURE, _MOST_KEY), validate=True))
        except (msgspec.MsgspecError, binascii.Error, RecursionError, TapPassConfigError) as error:
            self.close()
            raise damaged(path, "its manifest cannot be read") from error
        names = [name for table in self.manifest.tables for name in (table.name, *table.columns)]
        if not sound or not all(name.isidentifier() and name.isascii() for name in names):
            self.close()
            raise damaged(path, "its manifest is not signed by the key that it names")
        if self.manifest.format != FORMAT:
            self.close()
            raise TapPassConfigError(
                f"{path} has format {self.manifest.format}, this tappass reads {FORMAT}; update it"
            )

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._zip.close()

    def rows(self, name: str) -> Iterator[Row]:
        """Yield a table's rows; at their end the table is known to be as it was written.

        Raises:
            TapPassConfigError: it is not.
        """
        table = self.manifest.table(name)
        if table is None:
            return
        digest, count = hashlib.sha256(), 0
        try:
            with self._zip.open(f"{name}{_ROWS}") as member:
                while framed := _piece(member):
                    digest.update(framed)
                    piece = _decode(framed[4:])
                    count += len(piece)
                    yield from piece
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, msgspec.MsgspecError) as error:
            raise damaged(self.path, f"its table {name} cannot be read") from error
        if (digest.hexdigest(), count) != (table.sha256, table.rows):
            raise damaged(self.path, f"its table {name} is not as it was written")

    def key_file(self, name: str) -> bytes:
        """Return a key file."""
        return self._small(f"{_KEYS}{name}", _MOST_KEY)

    def _small(self, name: str, most: int) -> bytes:
        try:
            with self._zip.open(name) as member:
                return member.read(most)
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise damaged(self.path, f"{name} is missing in it, or cannot be read") from error


def _piece(member: IO[bytes]) -> bytes:
    head = member.read(4)
    length = int.from_bytes(head, "big")
    if head and (len(head) < 4 or not 0 < length <= _MOST_PIECE):
        raise ValueError("a piece is cut off")
    body = member.read(length) if head else b""
    if len(body) != length:
        raise ValueError("a piece is cut off")
    return head + body
