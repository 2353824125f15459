"""Putting a backup in place: proven first, then whole or not at all, and on the record as a cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from tappass.engine.audit.keys import LogKey
from tappass.engine.audit.merkle import leaf_hash, push
from tappass.engine.backup.archive import SIGNER, Log, Manifest, Reading, Row, damaged
from tappass.engine.backup.proving import prove
from tappass.engine.leaves import PROJECT
from tappass.engine.store.migrate import HEAD, REVISIONS, tables
from tappass.engine.store.transaction import place_of
from tappass.errors import TapPassConfigError
from tappass.wire.codec import canonical
from tappass.wire.events import AuditEvent
from tappass.wire.ids import SYSTEM_CLOCK, Clock, rfc3339

Tables = Iterator[tuple[str, tuple[str, ...], Iterator[Row]]]


class Target(Protocol):
    """A place for a database."""

    def check(self, *, force: bool) -> None:
        """See whether it may be put here.

        Raises:
            TapPassConfigError: there is one already, and it is not to be replaced.
        """
        ...

    def load(self, schema: str, tables: Tables) -> str:
        """Make the tables of that revision, fill them, bring them up to date; all or nothing.

        Returns:
            Where the database that was there is kept, "" if there was none.
        """
        ...


def restore(
    archive: Reading,
    target: Target,
    key: LogKey,
    *,
    by: str,
    force: bool = False,
    clock: Clock = SYSTEM_CLOCK,
    progress: Callable[[int], None] | None = None,
) -> str:
    """Restore a backup; return where the database that was there is kept, "" if there was none.

    Each log goes on under its id in a new epoch, with a `log.restored` leaf that says where the backup ended: what was
    written after that is gone, and a checkpoint held elsewhere shows it.

    Args:
        archive: the backup.
        target: where to.
        key: the log's key; its public half must have signed the backup.
        by: who restores, for the log.
        force: replace the database that is there.
        clock: what time it is.
        progress: called now and then with the number of bytes proven.

    Raises:
        TapPassConfigError: the backup does not hold, is of another key or of a newer tappass, or would overwrite.
        TapPassConnectionError: the database cannot be written; the one that was there still is.
    """
    manifest = archive.manifest
    target.check(force=force)
    checked(manifest, archive, str(key.public(SIGNER)))
    prove(archive, progress)
    return target.load(manifest.schema, _tables(archive, by, rfc3339(clock.time_ns())))


def checked(manifest: Manifest, archive: Reading, key: str) -> None:
    """See whether this version, with this key, can go on from a backup.

    Raises:
        TapPassConfigError: it cannot; the message says what can.
    """
    if manifest.key != key:
        raise TapPassConfigError(
            f"{archive.path} was not signed with the log's key here; put the `log.key` in place that belongs to it "
            "(a backup made with --with-keys holds it): what is written from now on must verify with what is there"
        )
    if manifest.schema not in REVISIONS:
        raise TapPassConfigError(
            f"{archive.path} was made by a newer tappass (schema {manifest.schema}, this one knows {HEAD}); update it"
        )
    if manifest.schema == HEAD and manifest.tables_number != tables():
        raise TapPassConfigError(f"{archive.path} was made by an unreleased tappass whose tables were other ones")


def _tables(archive: Reading, by: str, at: str) -> Tables:
    """Yield every table with its rows, the logs one epoch and one leaf further."""
    projects = _projects(archive)
    for table in archive.manifest.tables:
        rows = archive.rows(table.name)
        if table.name == "log":
            rows = _next_epochs(rows, table.columns, projects, archive, by, at)
        elif table.name == "leaf":
            rows = _with_last(rows, table.columns, projects, archive, by, at)
        yield table.name, table.columns, rows


def _projects(archive: Reading) -> dict[str, str]:
    """Return a project of each organisation, for leaves that are about all of it."""
    found: dict[str, str] = {}
    if (table := archive.manifest.table("project")) is not None:
        for row in archive.rows("project"):
            named = dict(zip(table.columns, row, strict=True))
            found.setdefault(named["org_id"], named["project_id"])
    return found


def _event(log: Log, project_id: str, by: str, at: str) -> AuditEvent:
    return AuditEvent(
        log_id=log.log_id,
        epoch=log.epoch + 1,
        seq=log.size,
        at=at,
        type="log.restored",
        org_id=log.org_id,
        project_id=project_id,
        actor=by,
        details={"size": str(log.size), "epoch": str(log.epoch)},
    )


def _leaf(log: Log, projects: dict[str, str], by: str, at: str) -> bytes:
    return canonical(_event(log, projects.get(log.org_id, PROJECT), by, at))


def _next_epochs(
    rows: Iterator[Row], columns: tuple[str, ...], projects: dict[str, str], archive: Reading, by: str, at: str
) -> Iterator[Row]:
    logs = {log.log_no: log for log in archive.manifest.logs}
    for row in rows:
        named = dict(zip(columns, row, strict=True))
        log = logs[named["log_no"]]
        digest = leaf_hash(_leaf(log, projects, by, at))
        changed = {"epoch": log.epoch + 1, "size": log.size + 1, "frontier": push(log.size, named["frontier"], digest)}
        yield tuple((named | changed).values())


def _with_last(
    rows: Iterator[Row], columns: tuple[str, ...], projects: dict[str, str], archive: Reading, by: str, at: str
) -> Iterator[Row]:
    yield from rows
    for log in archive.manifest.logs:
        leaf = _leaf(log, projects, by, at)
        values = {
            "place": place_of(log.log_no, log.size),
            "log_no": log.log_no,
            "seq": log.size,
            "type": "log.restored",
            "session_id": "",
            "task_id": "",
            "hash": leaf_hash(leaf),
            "bytes": leaf,
            "salt": None,
            "body": None,
        }
        if set(columns) != set(values):
            raise damaged(archive.path, "its leaves have other columns than this version writes")
        yield tuple(values[column] for column in columns)
