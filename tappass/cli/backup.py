"""`tappass backup`, `tappass restore`, `tappass upgrade`: a whole database in a file, back again, up to date."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from tappass.cli.console import emit, progress, say, shown
from tappass.cli.databases import Database
from tappass.cli.options import Json
from tappass.errors import TapPassConfigError
from tappass.extras import missing

if TYPE_CHECKING:
    from tappass.engine.backup.archive import Manifest
    from tappass.engine.backup.restoring import Target
    from tappass.engine.backup.taking import Snapshot

State: TypeAlias = Annotated[
    Path | None, typer.Option("--state", help="Where the key files lie; else beside the database, or in .tappass here.")
]
File: TypeAlias = Annotated[Path, typer.Argument(dir_okay=False, help="The backup.")]


class Where:
    """A database and the directory of its keys."""

    def __init__(self, database: str, state: Path | None) -> None:
        from tappass.plane.connect import database_of, url_here
        from tappass.plane.followed import FOLDER

        url = database or url_here()
        self.postgres = url if url.startswith(("postgresql:", "postgres:")) else ""
        self.path = None if self.postgres else database_of(url)
        self.beside = self.path is not None and state is None
        self.state = state or (self.path.parent if self.path is not None else Path.cwd() / FOLDER)

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Return the database as it is now."""
        if self.path is None:
            _needs_driver()
            from tappass.engine.backup.postgres import PostgresSnapshot

            return PostgresSnapshot(self.postgres)
        from tappass.engine.backup.sqlite import SqliteSnapshot

        return SqliteSnapshot(self.path)

    def target(self) -> Target:
        """Return where a database can be put."""
        if self.path is None:
            _needs_driver()
            from tappass.engine.backup.postgres import PostgresTarget

            return PostgresTarget(self.postgres)
        from tappass.engine.backup.sqlite import SqliteTarget

        return SqliteTarget(self.path)


def backup(
    file: File,
    database: Database = "",
    state: State = None,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="With the key files: who has the backup can then sign as this log.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: Json = False,
) -> None:
    """Back up the whole database as it is now, while others go on writing."""
    _needs_engine()
    from tappass.engine.audit.keys import LOG_KEY_FILE, log_key
    from tappass.engine.backup.taking import back_up

    where = Where(database, state)
    with where.snapshot() as snapshot, progress("backing up (rows)", None) as done:
        # Beside its database it is made at its first use; elsewhere, a new one would be the wrong one.
        if not where.beside and not (where.state / LOG_KEY_FILE).exists():
            raise TapPassConfigError(
                f"there is no {LOG_KEY_FILE} in {where.state}, which signs the backup; see --state"
            )
        keys = where.state if with_keys else None
        manifest = back_up(snapshot, file, log_key(where.state), keys=keys, force=force, progress=done)
    if as_json:
        emit({"file": str(file.absolute()), "manifest": manifest})
        return
    say(
        f"{_counted(manifest)} in {shown(file)}",
        *([] if with_keys else ["The key files are not in it: keep them apart."]),
    )


def restore(
    file: File,
    database: Database = "",
    state: State = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the database that is there.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only verify the backup.")] = False,
    as_json: Json = False,
) -> None:
    """Verify a backup and put it in place. Stop whatever uses the database first."""
    _needs_engine()
    from tappass.engine.approver import identity
    from tappass.engine.audit.keys import log_key
    from tappass.engine.backup.archive import Reading
    from tappass.engine.backup.keyfiles import put_keys
    from tappass.engine.backup.proving import prove
    from tappass.engine.backup.restoring import restore as put

    where, kept = Where(database, state), ""
    with Reading(file) as archive, progress("verifying (bytes)", None) as done:
        manifest = archive.manifest
        if check:
            prove(archive, done)
        else:
            put_keys(archive, where.state)
            key = log_key(where.state)
            kept = put(archive, where.target(), key, by=identity(), force=force, progress=done)
    if as_json:
        emit({"manifest": manifest, "restored": not check, "kept": kept})
        return
    said = "verified" if check else "restored"
    say(f"{said}: {_counted(manifest)}, as of {manifest.created_at}")
    if kept:
        say(f"The database that was there is kept as {shown(kept)}")


def upgrade(database: Database = "", as_json: Json = False) -> None:
    """Bring the tables up to what this version writes; says what it did."""
    _needs_engine()
    where = Where(database, None)
    before, after = _upgraded(where)
    if as_json:
        emit({"before": before, "after": after})
    elif before == after:
        say(f"schema {after}: nothing to do")
    else:
        say(f"schema {after}: brought up from {before or 'an empty database'}")


def _upgraded(where: Where) -> tuple[str, str]:
    if where.path is None:
        _needs_driver()
        from tappass.engine.backup.postgres import upgraded

        return upgraded(where.postgres)
    from tappass.engine.store import migrate

    if not where.path.exists():
        raise TapPassConfigError(f"there is no database at {where.path}; `tappass init` makes one")
    before = migrate.revision(str(where.path))
    migrate.prepare(str(where.path))
    return before, migrate.revision(str(where.path))


def _counted(manifest: Manifest) -> str:
    events, rows = sum(log.size for log in manifest.logs), sum(table.rows for table in manifest.tables)
    return f"{rows} rows, {events} of them events of {len(manifest.logs)} logs"


def _needs_engine() -> None:
    try:
        import cryptography  # noqa: F401 (its absence is told here)

        import tappass.engine.store.sqlite  # noqa: F401
    except ImportError as error:
        raise missing("embedded", "this command") from error


def _needs_driver() -> None:
    try:
        import psycopg  # noqa: F401 (its absence is told here)
    except ImportError as error:
        raise missing("postgres", "a PostgreSQL database") from error
