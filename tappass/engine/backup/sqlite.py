"""A backup's two ends on SQLite: a look at a file that others write, and a new file in its place."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import gmtime, strftime

from tappass.engine.backup.archive import Row
from tappass.engine.backup.restoring import Tables
from tappass.engine.store import migrate
from tappass.engine.store.outage import cannot_read, cannot_record
from tappass.errors import TapPassConfigError, TapPassConnectionError

_STAMP = "alembic_version"
_TABLES = f"SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> '{_STAMP}'"  # noqa: S608


class SqliteSnapshot:
    """A file as it was when this was made, whoever writes meanwhile.

    Raises:
        TapPassConfigError: there is no such file.
        TapPassConnectionError: it cannot be read.
    """

    storage = "sqlite"

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise TapPassConfigError(f"there is no database at {path}, so there is nothing to back up")
        self._path = str(path)
        try:
            self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
            self._connection.execute("BEGIN")
            self.schema, self.number = migrate.version_of(self._connection)
        except sqlite3.Error as error:
            raise cannot_read(self._path, error) from error

    def __enter__(self) -> SqliteSnapshot:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def tables(self) -> dict[str, tuple[str, ...]]:
        """Return the columns of each table."""
        names = [row[0] for row in self._connection.execute(_TABLES)]
        return {
            name: tuple([column[1] for column in self._connection.execute(f"PRAGMA table_info({name})")])
            for name in names
        }

    def rows(self, table: str, columns: tuple[str, ...]) -> Iterator[Row]:
        """Yield a table's rows; those of `leaf` by log, in their order."""
        order = " ORDER BY place" if table == "leaf" else ""
        try:
            yield from self._connection.execute(f"SELECT {', '.join(columns)} FROM {table}{order}")  # noqa: S608
        except sqlite3.Error as error:
            raise cannot_read(self._path, error) from error


class SqliteTarget:
    """A file to restore to; the one that is there is kept beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self, *, force: bool) -> None:
        """See whether a file may be put here.

        Raises:
            TapPassConfigError: there is one already.
        """
        if self._path.exists() and not force:
            raise TapPassConfigError(
                f"there is a database at {self._path} already; --force puts the backup in its place"
            )

    def load(self, schema: str, tables: Tables) -> str:
        """Make a file of its own, then rename it; return where the one that was there is kept.

        Raises:
            TapPassConnectionError: it cannot be written, or another process uses the one that is there.
        """
        draft = self._path.with_name(f".{self._path.name}.{os.urandom(4).hex()}.restoring")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _filled(draft, schema, tables)
            migrate.prepare(str(draft))
            return self._swap(draft)
        except (sqlite3.Error, OSError) as error:
            raise cannot_record(str(self._path), error) from error
        finally:
            for end in ("", "-wal", "-shm", ".lock", "-journal"):
                Path(f"{draft}{end}").unlink(missing_ok=True)

    def _swap(self, draft: Path) -> str:
        kept = ""
        if self._path.exists():
            _at_rest(self._path)
            kept = f"{self._path}.replaced-{strftime('%Y%m%dT%H%M%SZ', gmtime())}"
            # A second name, not a move: at no moment is there no database.
            os.link(self._path, kept)
        draft.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return kept


def _filled(draft: Path, schema: str, tables: Tables) -> None:
    """Write a whole database and bring it to disk."""
    migrate.create_file(str(draft), schema)
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for name, columns, rows in tables:
            marks = ", ".join("?" * len(columns))
            connection.executemany(f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({marks})", rows)  # noqa: S608
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    with draft.open("rb") as file:
        os.fsync(file.fileno())


def _at_rest(path: Path) -> None:
    """Have a file hold all of its database: what lies beside it would be taken for the new one's.

    Raises:
        TapPassConnectionError: another process uses it.
    """
    with suppress(sqlite3.DatabaseError):
        # The last connection that closes takes the write-ahead log along.
        connection = sqlite3.connect(path, timeout=1, isolation_level=None)
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()
    if Path(f"{path}-wal").exists():
        raise TapPassConnectionError(
            f"cannot put the backup in the place of {path}: another process uses it; stop it, then try again"
        )
