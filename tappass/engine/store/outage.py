"""Which database errors mean that nothing can be recorded now, and how that is said."""

from __future__ import annotations

import sqlite3

from tappass.errors import TapPassConnectionError

# SQLITE_ERROR (bad SQL), CONSTRAINT, MISMATCH, MISUSE, RANGE, TOOBIG: the write is wrong, not the disk.
_WRITERS_FAULT = {1, 18, 19, 20, 21, 25}
_BUSY, _FULL = 5, 13

_REMEDY = {
    _BUSY: "another process holds it; end that process, or try again",
    8: "it is read-only; make the file and its directory writable",
    _FULL: "the disk is full; free some space, and the next call goes through",
    14: "it cannot be opened; check that its directory exists and is writable",
}


def is_outage(error: BaseException) -> bool:
    """Tell whether the database, rather than what was written to it, is at fault."""
    if not isinstance(error, sqlite3.Error):
        return False
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return not isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError | sqlite3.DataError)
    return code & 0xFF not in _WRITERS_FAULT


def keeps_connection(error: sqlite3.Error) -> bool:
    """Tell whether the connection is sound after that error; after any other outage it is opened anew."""
    return not is_outage(error) or getattr(error, "sqlite_errorcode", 0) & 0xFF in (_BUSY, _FULL)


def cannot_record(path: str, error: sqlite3.Error | OSError) -> TapPassConnectionError:
    """Return the error for a caller whose record could not be written."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    remedy = _REMEDY.get(code, "check the disk and the file")
    return TapPassConnectionError(f"cannot write the audit record to {path} ({error}); nothing ran; {remedy}")


def moved(path: str) -> TapPassConnectionError:
    """Return the error for a database that is no longer the one that was opened."""
    return TapPassConnectionError(
        f"cannot write the audit record to {path}: the file was removed or replaced after it was opened; "
        "nothing ran; put the file back, or restart to use the one that is there now"
    )


def went_back(path: str, log_id: str, size: int, seen: int) -> TapPassConnectionError:
    """Return the error for a log that holds less than this process has already seen in it."""
    return TapPassConnectionError(
        f"cannot write the audit record to {path}: the log {log_id or '(none)'} holds {size} events where {seen} were "
        "seen before, as after restoring a backup; nothing ran; restart to go on from what is there now"
    )


def cannot_read(path: str, error: sqlite3.Error) -> TapPassConnectionError:
    """Return the error for a reader."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return TapPassConnectionError(f"cannot read {path} ({error}); {_REMEDY.get(code, 'check the disk and the file')}")
