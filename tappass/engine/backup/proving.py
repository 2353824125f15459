"""Whether a backup is what was backed up: every table by its digest, every log as an auditor would read it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from itertools import groupby

from tappass.engine.audit.checkpoint import origin
from tappass.engine.audit.export import FORMAT, HASH_BYTES, HASHES_PER_LINE, Content, Header
from tappass.engine.audit.keys import PublicKey
from tappass.engine.audit.verify import verify
from tappass.engine.backup.archive import Log, Reading, Row, damaged
from tappass.wire.codec import canonical


def prove(archive: Reading, progress: Callable[[int], None] | None = None) -> None:
    """Read all of a backup.

    Raises:
        TapPassConfigError: a table or an event in it is not as it was; the first bad event is named.
    """
    notes: dict[int, dict[int, str]] = {}
    for table in archive.manifest.tables:
        if table.name == "checkpoint":
            for row in _named(archive, "checkpoint", ("log_no", "size", "note")):
                notes.setdefault(row[0], {})[row[1]] = row[2]
        elif table.name != "leaf":
            for _ in archive.rows(table.name):
                pass
    _prove_logs(archive, notes, progress)


def _prove_logs(archive: Reading, notes: dict[int, dict[int, str]], progress: Callable[[int], None] | None) -> None:
    logs = {log.log_no: log for log in archive.manifest.logs}
    stands = {row[0]: row[1:] for row in _named(archive, "log", ("log_no", "log_id", "org_id", "epoch", "size"))}
    if stands != {no: (log.log_id, log.org_id, log.epoch, log.size) for no, log in logs.items()}:
        raise damaged(archive.path, "its logs are not those that its manifest counts")
    empty = {no for no, log in logs.items() if not log.size}
    leaves = _named(archive, "leaf", ("log_no", "bytes", "hash", "salt", "body"))
    for log_no, group in groupby(leaves, key=lambda row: row[0]):
        log = logs.pop(log_no, None)
        if log is None or log_no in empty:
            raise damaged(archive.path, f"it holds events of a log {log_no} that its manifest does not count")
        public = PublicKey(origin(log.log_id), archive.key.raw)
        lines = _lines(log, public, (row[1:] for row in group), notes.get(log_no, {}) | {log.size: log.checkpoint})
        report = verify(io.BufferedReader(_Piped(lines), 1 << 18), public, progress=progress)
        if not report.ok or report.events != log.size:
            raise damaged(archive.path, f"the log {log.log_id} in it does not verify: {' '.join(report.lines())}")
    if logs.keys() - empty:
        raise damaged(archive.path, "a log that its manifest counts is missing in it")


def _named(archive: Reading, table: str, columns: tuple[str, ...]) -> Iterator[Row]:
    """Yield some columns of a table."""
    told = archive.manifest.table(table)
    if told is None or not set(columns) <= set(told.columns):
        raise damaged(archive.path, f"it has no table {table} with {', '.join(columns)}")
    places = [told.columns.index(column) for column in columns]
    for row in archive.rows(table):
        yield tuple([row[place] for place in places])


def _lines(log: Log, public: PublicKey, leaves: Iterator[Row], notes: dict[int, str]) -> Iterator[bytes]:
    """Yield a log as its export would have it, content included; see `audit.export`."""
    header = Header(
        format=FORMAT, log_id=log.log_id, org_id=log.org_id, size=log.size, key=str(public), exported_at="backup"
    )
    yield canonical({"_export": header}) + b"\n"
    hashes: list[bytes] = []
    for seq, (leaf, digest, salt, body) in enumerate(leaves):
        yield leaf + b"\n"
        hashes.append(digest[:HASH_BYTES])
        if body is not None:
            yield canonical({"_content": Content(seq=seq, salt=salt, body=body)}) + b"\n"
        note = notes.get(seq + 1)
        if note is not None or len(hashes) == HASHES_PER_LINE or seq + 1 == log.size:
            yield canonical({"_hashes": base64.b64encode(b"".join(hashes)).decode()}) + b"\n"
            hashes.clear()
        if note is not None:
            yield canonical({"_checkpoint": note}) + b"\n"


class _Piped(io.RawIOBase):
    """A file that is what an iterator yields."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer as far as it goes."""
        filled = 0
        while filled < len(buffer):
            if not self._rest:
                self._rest = memoryview(next(self._pieces, b""))
                if not self._rest:
                    break
            count = min(len(buffer) - filled, len(self._rest))
            buffer[filled : filled + count] = self._rest[:count]
            self._rest = self._rest[count:]
            filled += count
        return filled
