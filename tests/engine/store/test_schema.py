from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from tappass.engine.store import migrate, row_security, schema
from tappass.engine.store.sqlite import SqliteStore
from tappass.errors import TapPassConfigError
from tests.engine.store.events import decide


def described(path):
    connection = sqlite3.connect(path)
    try:
        return sorted(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall(), key=str)
    finally:
        connection.close()


def squeezed(sql):
    return " ".join(sql.split())


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_the_sql_that_is_run_is_what_the_tables_say(dialect):
    written = "".join(migrate.revision_sql(revision, dialect) for revision in migrate.REVISIONS)
    assert squeezed(written) == squeezed(schema.ddl(dialect)), "write it again from schema.ddl()"


def test_the_sql_that_keeps_organisations_apart_is_what_the_tables_say():
    written = "".join(migrate.revision_sql(revision, "postgresql_security") for revision in migrate.REVISIONS)
    assert squeezed(written) == squeezed(row_security.security()), "write it again from row_security.security()"


def test_a_fresh_file_equals_what_alembic_makes(tmp_path):
    fresh, migrated = tmp_path / "fresh.db", tmp_path / "migrated.db"
    SqliteStore(fresh).close()
    sqlite3.connect(migrated).close()
    migrate.upgrade(str(migrated))
    without_stamp = [[row for row in described(path) if row[2] != "alembic_version"] for path in (fresh, migrated)]
    assert without_stamp[0] == without_stamp[1]
    assert sqlite3_value(fresh, "SELECT version_num FROM alembic_version") == migrate.HEAD
    assert sqlite3_value(migrated, "SELECT version_num FROM alembic_version") == migrate.HEAD


def sqlite3_value(path, sql):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchone()[0]
    finally:
        connection.close()


def test_alembic_sees_no_difference_between_the_tables_and_a_fresh_file(path):
    SqliteStore(path).close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_every_revision_is_known_to_both_ways():
    scripts = ScriptDirectory(migrate.scripts())
    assert tuple(reversed([each.revision for each in scripts.walk_revisions()])) == migrate.REVISIONS


def test_a_file_without_tables_is_filled_and_readable_by_its_owner_alone(path):
    sqlite3.connect(path).close()
    with SqliteStore(path) as store:
        decide(store, "t")
        assert store.read.query("PRAGMA journal_mode") == [("wal",)]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_database_by_a_newer_tappass_is_refused(path):
    SqliteStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(TapPassConfigError, match="newer tappass"):
        SqliteStore(path)


def test_everything_of_a_tenant_says_whose_it_is():
    by_log = {"leaf", "checkpoint", "approval_vote"}
    for table in schema.metadata.tables.values():
        assert "org_id" in table.columns or table.name in by_log, table.name


def test_opening_an_existing_database_loads_neither_sqlalchemy_nor_cryptography(path):
    SqliteStore(path).close()
    source = (
        "import sys; from tappass.engine.store.sqlite import SqliteStore; import tappass.engine.audit.export;"
        "SqliteStore(sys.argv[1]).close();"
        "assert not {'sqlalchemy', 'alembic', 'cryptography', 'asyncio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", source, str(path)], check=True, timeout=60)


def test_a_file_of_the_same_number_with_other_tables_is_refused_by_name(tmp_path):
    made = str(tmp_path / "made.db")
    migrate.prepare(made)
    migrate.prepare(made)
    connection = sqlite3.connect(made)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(TapPassConfigError, match=r"made\.db was made by an unreleased tappass"):
        migrate.prepare(made)


def test_a_migrated_file_is_as_good_as_a_fresh_one(tmp_path):
    migrated = str(tmp_path / "migrated.db")
    migrate.upgrade(migrated)
    migrate.prepare(migrated)
