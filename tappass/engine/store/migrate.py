"""Bring a database file to the schema this version writes.

A revision is a pair of SQL files in `migrations/`, one a dialect. A fresh file runs them as they stand; Alembic, whose
import costs more than everything else at start, is only loaded to bring an older file up to date.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources

from tappass.engine.store.outage import cannot_record
from tappass.errors import TapPassConfigError

REVISIONS = ("0001",)
HEAD = REVISIONS[-1]


def revision_sql(revision: str, dialect: str) -> str:
    """Return the SQL of one revision."""
    return resources.files("tappass.engine.store").joinpath(f"migrations/{revision}_{dialect}.sql").read_text("utf-8")


def prepare(path: str) -> None:
    """Create the tables of an SQLite file, or bring them up to date; costs 0.5 ms where nothing is to be done.

    Raises:
        TapPassConnectionError: the file cannot be opened or written.
        TapPassConfigError: a newer tappass wrote it, or an unreleased one with the same number and other tables.
    """
    try:
        if os.path.exists(path) and _version_of(path) == (HEAD, tables()):
            return
        with _alone(path):
            version, made = _version_of(path)
            if version == "":
                create_file(path)
            elif version not in REVISIONS:
                raise TapPassConfigError(
                    f"{path} was written by a newer tappass (schema {version}, this one knows {HEAD}); update tappass"
                )
            elif version != HEAD:
                upgrade(path)
            elif made != tables():
                raise TapPassConfigError(
                    f"{path} was made by an unreleased tappass whose tables were other ones; move it out of the way"
                )
    except (sqlite3.Error, OSError) as error:
        raise cannot_record(path, error) from error


def state_of(path: str) -> str:
    """Return how a file stands to this version: `missing`, `current`, `older`, or `other`; changes nothing.

    Raises:
        TapPassConnectionError: the file cannot be opened.
    """
    if not os.path.exists(path):
        return "missing"
    try:
        version, made = _version_of(path)
    except sqlite3.Error as error:
        raise cannot_record(path, error) from error
    if version == "":
        return "missing"
    if version in REVISIONS and version != HEAD:
        return "older"
    return "current" if (version, made) == (HEAD, tables()) else "other"


def create(connection: sqlite3.Connection, upto: str = HEAD) -> None:
    """Create every table on an open connection, all or none; as they were at an older revision if one is given."""
    script = "".join(revision_sql(revision, "sqlite") for revision in REVISIONS if revision <= upto)
    stamp = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);\n"
    stamp += f"INSERT INTO alembic_version VALUES ('{upto}');\n"  # noqa: S608 - our own constant
    stamp += f"PRAGMA user_version = {tables()};"
    connection.executescript(f"BEGIN IMMEDIATE;\n{script}\n{stamp}\nCOMMIT;")


@cache
def tables() -> int:
    """Return a number that stands for the text of all revisions; a file keeps it as its `user_version`."""
    return zlib.crc32("".join(revision_sql(revision, "sqlite") for revision in REVISIONS).encode()) & 0x7FFF_FFFF


def _version_of(path: str) -> tuple[str, int]:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        return version_of(connection)
    finally:
        connection.close()


def revision(path: str) -> str:
    """Return the revision of a file, "" for one without tables."""
    return _version_of(path)[0]


def version_of(connection: sqlite3.Connection) -> tuple[str, int]:
    """Return the revision of a database and the number that stands for its tables; "" and 0 without tables."""
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else "", connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return "", 0
        raise


def create_file(path: str, upto: str = HEAD) -> None:
    """Make a file with every table, as they were at an older revision if one is given."""
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        # A transaction writes the tail pages of a few tables whole: half the page, 5 % less for a governed call.
        connection.execute("PRAGMA page_size = 2048")
        connection.execute("PRAGMA journal_mode = WAL")
        create(connection, upto)
    finally:
        connection.close()
    # Arguments and prompts may stand in it: nobody else on the machine needs to read them.
    os.chmod(path, 0o600)


def upgrade(path: str) -> None:
    """Run the revisions that a file has not seen."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", scripts())
    config.attributes["url"] = f"sqlite:///{path}"
    command.upgrade(config, "head")
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        connection.execute(f"PRAGMA user_version = {tables()}")
    finally:
        connection.close()


def scripts() -> str:
    """Return where Alembic finds the revisions."""
    return str(resources.files("tappass.engine.store").joinpath("migrations"))


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """Hold the lock file beside the database; opening the database itself would drop SQLite's own locks on it."""
    import fcntl

    with open(f"{path}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
