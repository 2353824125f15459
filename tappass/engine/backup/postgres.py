"""A backup's two ends on PostgreSQL: one repeatable read over everything, and one transaction that replaces it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
from psycopg import sql

from tappass.engine.backup.archive import Row
from tappass.engine.backup.restoring import Tables
from tappass.engine.store import migrate, postgres_migrate
from tappass.engine.store.postgres_link import Address, Connection, cannot_read, cannot_record
from tappass.errors import TapPassConfigError, TapPassConnectionError

_STAMP = "alembic_version"
_PAGE = 1000
_LOOKS, _PAUSE_S = 20, 0.1

_COLUMNS = (
    "SELECT columns.table_name, columns.column_name FROM information_schema.columns JOIN information_schema.tables"
    " USING (table_schema, table_name) WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'"
    " AND table_name <> 'alembic_version' ORDER BY table_name, ordinal_position"
)
_ORGANISATIONS = "SELECT org_id FROM tappass_organisations() ORDER BY org_id"
_HIDES = "SELECT bool_or(row_security_active(oid)) FROM pg_class WHERE oid = to_regclass('leaf')"
_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND application_name = 'tappass'"
)
_FORCED = (
    "SELECT relname FROM pg_class WHERE relforcerowsecurity AND relnamespace = to_regnamespace(current_schema()::text)"
)
_NEXT_LOG = "SELECT setval(pg_get_serial_sequence('log', 'log_no'), greatest(1, (SELECT max(log_no) FROM log)))"


class PostgresSnapshot:
    """A database as it was when this was made, whoever writes meanwhile.

    Raises:
        TapPassConfigError: the url cannot be read, or there is no database of tappass.
        TapPassConnectionError: it cannot be reached.
    """

    storage = "postgresql"

    def __init__(self, url: str) -> None:
        self._address = Address(url)
        try:
            self._connection = _connected(self._address)
            self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self.schema, made = postgres_migrate.version_of(self._connection)
            self.number = migrate.tables() if made == postgres_migrate.tables() else 0
            # Row security shows one organisation at a time to whoever it holds for.
            self._organisations = self._each() if self.schema else [""]
        except psycopg.Error as error:
            raise cannot_read(self._address.shown, error) from error

    def __enter__(self) -> PostgresSnapshot:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def _each(self) -> list[str]:
        hides = self._connection.execute(_HIDES).fetchone()
        if hides is None or not hides[0]:
            return [""]
        return [row[0] for row in self._connection.execute(_ORGANISATIONS)]

    def tables(self) -> dict[str, tuple[str, ...]]:
        """Return the columns of each table."""
        found: dict[str, tuple[str, ...]] = {}
        for table, column in self._connection.execute(_COLUMNS):
            found[table] = (*found.get(table, ()), column)
        return found

    def rows(self, table: str, columns: tuple[str, ...]) -> Iterator[Row]:
        """Yield a table's rows; those of `leaf` by log, in their order."""
        order = sql.SQL(" ORDER BY place" if table == "leaf" else "")
        named = sql.SQL(", ").join([sql.Identifier(column) for column in columns])
        asked = sql.SQL("SELECT {} FROM {}{}").format(named, sql.Identifier(table), order)
        try:
            for org_id in self._organisations:
                self._connection.execute("SELECT set_config('tappass.org_id', %s, true)", (org_id,))
                with self._connection.cursor(name="backup") as cursor:
                    cursor.itersize = _PAGE
                    yield from cursor.execute(asked)
        except psycopg.Error as error:
            raise cannot_read(self._address.shown, error) from error


class PostgresTarget:
    """A database to restore to.

    Raises:
        TapPassConfigError: the url cannot be read.
    """

    def __init__(self, url: str) -> None:
        self._address = Address(url)

    def check(self, *, force: bool) -> None:
        """See whether tables may be put here.

        Raises:
            TapPassConfigError: there are some already.
            TapPassConnectionError: the database cannot be reached, or a server uses it.
        """
        try:
            with _connected(self._address) as connection:
                there = bool(postgres_migrate.version_of(connection)[0])
                used = _used(connection)
        except psycopg.Error as error:
            raise cannot_read(self._address.shown, error) from error
        if there and not force:
            raise TapPassConfigError(
                f"there is a database of tappass at {self._address.shown} already; --force puts the backup in its place"
            )
        if used:
            raise TapPassConnectionError(f"a server uses {self._address.shown}; stop it, then try again")

    def load(self, schema: str, tables: Tables) -> str:
        """Replace what is there in one transaction; nothing of it is kept.

        Raises:
            TapPassConnectionError: it cannot be written; what was there still is.
        """
        try:
            with _connected(self._address) as connection, connection.transaction():
                _emptied(connection)
                postgres_migrate.create(connection, schema)
                _filled(connection, tables)
            postgres_migrate.prepare(self._address)
        except psycopg.Error as error:
            raise cannot_record(self._address.shown, error) from error
        return ""


def upgraded(url: str) -> tuple[str, str]:
    """Bring a database up to date; return its revision before and after.

    Raises:
        TapPassConfigError: a newer tappass wrote it.
        TapPassConnectionError: it cannot be reached.
    """
    address = Address(url)
    try:
        with _connected(address) as connection:
            before = postgres_migrate.version_of(connection)[0]
        postgres_migrate.prepare(address)
    except psycopg.Error as error:
        raise cannot_record(address.shown, error) from error
    return before, migrate.HEAD


def _connected(address: Address) -> Connection:
    """Connect as whoever may change tables, for as long as it takes."""
    connection = address.connect(as_service=False)
    connection.execute("SET idle_in_transaction_session_timeout = 0")
    return connection


def _used(connection: Connection) -> bool:
    """Tell whether a process of tappass has the database open; one that has just ended is given time to go."""
    for _ in range(_LOOKS):
        found = connection.execute(_OTHERS).fetchone()
        if found is None or not found[0]:
            return False
        time.sleep(_PAUSE_S)
    return True


def _emptied(connection: Connection) -> None:
    names = {row[0] for row in connection.execute(_COLUMNS)}
    for name in sorted({*names, _STAMP}):
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(sql.Identifier(name)))


def _filled(connection: Connection, tables: Tables) -> None:
    forced = [sql.Identifier(row[0]) for row in connection.execute(_FORCED)]
    # COPY is refused where row security holds for the owner too; nobody else sees the tables before the commit.
    for table in forced:
        connection.execute(sql.SQL("ALTER TABLE {} NO FORCE ROW LEVEL SECURITY").format(table))
    for name, columns, rows in tables:
        named = sql.SQL(", ").join([sql.Identifier(column) for column in columns])
        copying = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(name), named)
        with connection.cursor() as cursor, cursor.copy(copying) as copy:
            for row in rows:
                copy.write_row(row)
    connection.execute(_NEXT_LOG)
    for table in forced:
        connection.execute(sql.SQL("ALTER TABLE {} FORCE ROW LEVEL SECURITY").format(table))
