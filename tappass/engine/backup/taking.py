"""Making a backup: one consistent look at a database while others go on writing, into one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tappass.engine.audit.checkpoint import Checkpoint, origin, sign
from tappass.engine.audit.keys import EQUALITY_KEY_FILE, LOG_KEY_FILE, LogKey
from tappass.engine.audit.merkle import root
from tappass.engine.backup.archive import FORMAT, SIGNER, Log, Manifest, Row, Writing
from tappass.engine.signing_keys import ISSUER_KEY_FILE
from tappass.errors import TapPassConfigError
from tappass.wire.ids import SYSTEM_CLOCK, Clock, rfc3339
from tappass.wire.version import VERSION

KEY_FILES = (LOG_KEY_FILE, EQUALITY_KEY_FILE, ISSUER_KEY_FILE)


class Snapshot(Protocol):
    """A database as it is at one moment.

    Attributes:
        storage: `sqlite` or `postgresql`.
        schema: the revision of its tables.
        number: stands for the text of that revision.
    """

    storage: str
    schema: str
    number: int

    def tables(self) -> dict[str, tuple[str, ...]]:
        """Return the columns of each table."""
        ...

    def rows(self, table: str, columns: tuple[str, ...]) -> Iterator[Row]:
        """Yield a table's rows; those of `leaf` by log, in their order."""
        ...


def back_up(
    snapshot: Snapshot,
    file: Path,
    key: LogKey,
    *,
    keys: Path | None = None,
    force: bool = False,
    clock: Clock = SYSTEM_CLOCK,
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Write a backup, whole or not at all; only its owner may read it.

    Args:
        snapshot: what to back up.
        file: where to write.
        key: signs the manifest, and where each log stands.
        keys: the directory whose key files go along; None leaves them out.
        force: overwrite the file.
        clock: when it was made.
        progress: called now and then with the number of rows written.

    Raises:
        TapPassConfigError: the file is there already, or cannot be written.
        TapPassConnectionError: the database cannot be read.
    """
    if file.exists() and not force:
        raise TapPassConfigError(f"{file} is there already; --force overwrites it")
    draft = file.with_name(f".{file.name}.{os.urandom(4).hex()}.part")
    try:
        writing = Writing(draft)
        try:
            manifest = _written(snapshot, writing, key, keys, rfc3339(clock.time_ns()), progress)
            writing.end(manifest, key)
        finally:
            writing.close()
        draft.replace(file)
    except OSError as error:
        raise TapPassConfigError(f"cannot write the backup to {file} ({error.strerror})") from error
    finally:
        draft.unlink(missing_ok=True)
    return manifest


def _written(
    snapshot: Snapshot,
    writing: Writing,
    key: LogKey,
    keys: Path | None,
    at: str,
    progress: Callable[[int], None] | None,
) -> Manifest:
    done = 0
    tables = snapshot.tables()
    for name, columns in sorted(tables.items()):
        before = done
        for count in writing.table(name, columns, snapshot.rows(name, columns)):
            done = before + count
            if progress is not None:
                progress(done)
    found = [keys / name for name in KEY_FILES] if keys is not None else []
    held = []
    for path in found:
        with suppress(FileNotFoundError):
            writing.key_file(path)
            held.append(path.name)
    return Manifest(
        format=FORMAT,
        version=VERSION,
        created_at=at,
        storage=snapshot.storage,
        schema=snapshot.schema,
        tables_number=snapshot.number,
        key=str(key.public(SIGNER)),
        logs=tuple(_logs(snapshot, tables, key)),
        tables=tuple(writing.tables),
        keys=tuple(held),
    )


def _logs(snapshot: Snapshot, tables: dict[str, tuple[str, ...]], key: LogKey) -> Iterator[Log]:
    """Yield where each log stands, signed."""
    columns = ("log_no", "log_id", "org_id", "epoch", "size", "frontier")
    if not set(columns) <= set(tables.get("log", ())):
        raise TapPassConfigError("there is no database of tappass there, so there is nothing to back up")
    for log_no, log_id, org_id, epoch, size, frontier in snapshot.rows("log", columns):
        note = sign(Checkpoint(origin=origin(log_id), size=size, root=root(frontier)), key) if size else ""
        yield Log(log_no=log_no, log_id=log_id, org_id=org_id, epoch=epoch, size=size, checkpoint=note)
