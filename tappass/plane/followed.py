"""Which url the settings here send calls to: an accepted one, for a tool may have written the file."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from typing import TypeAlias

from tappass import forking
from tappass.errors import TapPassConfigError

FOLDER, FILE, SETTINGS = ".tappass", "tappass.db", "tappass.toml"
_DATABASE = f"{FOLDER}/{FILE}"

_ACCEPTED = "SELECT settings FROM policy_version WHERE org_id = ? AND project_id = ? ORDER BY accepted_seq DESC LIMIT 1"

_State: TypeAlias = tuple[int, ...] | None

_agreed: dict[tuple[_State, _State], str] = {}
_told: set[tuple[_State, _State]] = set()


def followed_url(directory: str) -> str:
    """Return the url that the `tappass.toml` of a directory stands for, "" if it names none.

    Where there is a database, the url is the one of the settings last accepted in it, and stderr says so once if
    the file says another: otherwise a tool could send the next process to a database without rules. Costs two
    `stat` calls once both agree.

    Raises:
        TapPassConfigError: the file cannot be read, and no accepted settings stand for it.
    """
    settings, database = os.path.join(directory, SETTINGS), os.path.join(directory, _DATABASE)
    state = (_state(settings), _state(database, identity_alone=True))
    if state[1] is None:
        return _said(settings, state[0])
    if (known := _agreed.get(state)) is not None:
        return known
    accepted = _accepted(database)
    if accepted is None:
        return _said(settings, state[0])
    if _same(accepted, settings, state[0]):
        _agreed[state] = accepted
    elif state not in _told:
        _told.add(state)
        print(  # noqa: T201
            f"tappass: the `url` in {SETTINGS} is not the one that was accepted, which still rules; "
            "review it, then run `tappass policy accept`",
            file=sys.stderr,
        )
    return accepted


def url_waits() -> bool:
    """Tell whether the url that `tappass.toml` here names waits to be accepted in the database here."""
    if not os.path.exists(_DATABASE):
        return False
    accepted = _accepted(_DATABASE)
    return accepted is not None and not _same(accepted, SETTINGS, _state(SETTINGS))


def _state(path: str, *, identity_alone: bool = False) -> _State:
    """Return what tells a file from another, and from itself written again."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    identity = (found.st_dev, found.st_ino)
    return identity if identity_alone else (*identity, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def _same(accepted: str, settings: str, state: _State) -> bool:
    try:
        return (_said(settings, state) or "embedded:") == (accepted or "embedded:")
    except TapPassConfigError:
        return False


def _said(settings: str, state: _State) -> str:
    return _url_in(os.path.abspath(settings), state) if state is not None else ""


@lru_cache(maxsize=8)
def _url_in(file: str, _state: _State) -> str:
    """Return the url in a settings file; read again only once it was written again."""
    with forking.unforked:
        import tomllib

    try:
        with open(file, "rb") as opened:
            return str(tomllib.load(opened).get("url", ""))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise TapPassConfigError(f"{SETTINGS} cannot be read: {error}") from error


def _accepted(database: str) -> str | None:
    """Return the url of the settings accepted last in a database, None if none ever were."""
    with forking.opening:
        return _read_accepted(database)


def _read_accepted(database: str) -> str | None:
    import sqlite3

    import msgspec

    from tappass.engine.leaves import ORG, PROJECT

    try:
        connection = sqlite3.connect(database, timeout=30)
        try:
            row = connection.execute(_ACCEPTED, (ORG, PROJECT)).fetchone()
        finally:
            connection.close()
        return None if row is None else str(msgspec.json.decode(row[0]).get("url", ""))
    except sqlite3.OperationalError as error:
        # A database without tables has accepted nothing; whatever else is wrong, its own opening says better.
        return None if "no such table" in str(error) else ""
    except (sqlite3.Error, msgspec.DecodeError):
        return ""
