"""Bring a PostgreSQL database to the schema this version writes, also where many servers start at once."""

from __future__ import annotations

import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

import psycopg

from tappass.engine.store.migrate import HEAD, REVISIONS, revision_sql, scripts
from tappass.engine.store.postgres_link import Address, Connection, cannot_record, is_outage
from tappass.errors import TapPassConfigError, TapPassConnectionError

if TYPE_CHECKING:
    from alembic.config import Config

_ALONE = 7_211_506_930_114_201  # any number that nobody else locks by
_THERE = "SELECT to_regclass('alembic_version') IS NOT NULL"
_VERSION = "SELECT version_num, coalesce(obj_description('alembic_version'::regclass), '') FROM alembic_version"
_STAMP = """
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('{}');
"""
_READABLE = """DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'tappass_service') THEN
        GRANT SELECT ON alembic_version TO tappass_service;
    END IF;
END $$"""


def prepare(address: Address) -> None:
    """Create the tables, or bring them up to date; one look where nothing is to be done.

    Raises:
        TapPassConnectionError: the database cannot be reached or written.
        TapPassConfigError: a newer tappass wrote it, or an unreleased one, or this user may not make tables.
    """
    try:
        with address.connect(as_service=False) as connection:
            if version_of(connection) == (HEAD, tables()):
                return
            connection.execute("SET lock_timeout = 0")
            connection.execute("SELECT pg_advisory_lock(%s)", (_ALONE,))
            _bring_up(connection, address)
    except psycopg.errors.InsufficientPrivilege as error:
        raise TapPassConfigError(
            f"the user of {address.shown} may not make tables there; GRANT CREATE ON SCHEMA public to it, "
            "or start once as the owner of the database"
        ) from error
    except psycopg.Error as error:
        if not is_outage(error):
            raise
        raise cannot_start(address, error) from error


def state_of(url: str) -> str:
    """Return how a database stands to this version: `missing`, `current`, `older`, or `other`; changes nothing.

    Raises:
        TapPassConnectionError: the database cannot be reached.
    """
    address = Address(url)
    try:
        with address.connect(as_service=False) as connection:
            version, made = version_of(connection)
    except psycopg.Error as error:
        raise cannot_start(address, error) from error
    if version == "":
        return "missing"
    if version in REVISIONS and version != HEAD:
        return "older"
    return "current" if (version, made) == (HEAD, tables()) else "other"


def cannot_start(address: Address, error: BaseException) -> TapPassConnectionError:
    """Return the error for a database that does not answer at the start."""
    return cannot_record(address.shown, error)


def _bring_up(connection: Connection, address: Address) -> None:
    version, made = version_of(connection)
    if version == "":
        with connection.transaction():
            create(connection)
    elif version not in REVISIONS:
        raise TapPassConfigError(
            f"{address.shown} was written by a newer tappass (schema {version}, this one knows {HEAD}); update tappass"
        )
    elif version != HEAD:
        upgrade(address)
    elif made != tables():
        raise TapPassConfigError(
            f"{address.shown} was made by an unreleased tappass whose tables were other ones; use another database"
        )


def create(connection: Connection, upto: str = HEAD) -> None:
    """Create every table, as they were at an older revision if one is given; the transaction is the caller's."""
    for statement in _statements(upto):
        connection.execute(statement, prepare=False)
    stamp(connection)


def _statements(upto: str = HEAD) -> list[str]:
    both = ("postgresql", "postgresql_security")
    made = [revision_sql(revision, part) for revision in REVISIONS if revision <= upto for part in both]
    return [*made, _STAMP.format(upto)]


def stamp(connection: Connection) -> None:
    """Note which tables these are, beside Alembic's own note, and let the service read it."""
    connection.execute(f"COMMENT ON TABLE alembic_version IS '{tables()}'", prepare=False)
    connection.execute(_READABLE, prepare=False)


@cache
def tables() -> str:
    """Return what stands for the text of all revisions."""
    return str(zlib.crc32("".join(_statements()).encode()))


def version_of(connection: Connection) -> tuple[str, str]:
    """Return the revision of a database and what stands for its tables; both "" without tables."""
    there = connection.execute(_THERE).fetchone()
    if there is None or not there[0]:
        return "", ""
    row = connection.execute(_VERSION).fetchone()
    return (str(row[0]), str(row[1])) if row else ("", "")


def upgrade(address: Address) -> None:
    """Run the revisions that a database has not seen."""
    from alembic import command

    command.upgrade(_config(address), "head")
    with address.connect(as_service=False) as connection:
        stamp(connection)


def _config(address: Address) -> Config:
    from alembic.config import Config

    def connect() -> Any:
        connection = address.connect(as_service=False)
        connection.autocommit = False
        connection.prepare_threshold = None
        return connection

    config = Config()
    config.set_main_option("script_location", scripts())
    config.attributes["url"] = "postgresql+psycopg://"
    config.attributes["options"] = {"creator": connect}
    return config
