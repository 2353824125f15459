"""What `tappass serve --check` looks at: settings, policy, database, key files; changes nothing."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from tappass.engine.audit.keys import equality_key, log_key
from tappass.engine.detect.detectors import catalogue
from tappass.engine.policy.files import find_files
from tappass.engine.store.opening import SQLITE, kind_of, without_password
from tappass.errors import TapPassConfigError, TapPassError

if TYPE_CHECKING:
    from tappass.server.serve import Serving

CURRENT, MISSING, OLDER = "current", "missing", "older"
KEY_FILES = ("log.key", "equality.key", "issuer.key")


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at; `found` says what is there, or what is wrong with it."""

    what: str
    ok: bool
    found: str


def check(serving: Serving) -> list[Looked]:
    """Return what was found, in the order looked at."""
    looks: tuple[tuple[str, Callable[[Serving], Iterator[str]]], ...] = (
        ("settings", _settings),
        ("policy", _policy),
        ("database", _database),
        ("keys", _keys),
    )
    return [found for what, look in looks for found in _looked(what, look, serving)]


def _looked(what: str, look: Callable[[Serving], Iterator[str]], serving: Serving) -> Iterator[Looked]:
    try:
        for found in look(serving):
            yield Looked(what=what, ok=True, found=found)
    except TapPassError as error:
        yield Looked(what=what, ok=False, found=str(error))


def _settings(serving: Serving) -> Iterator[str]:
    sources = find_files(serving.home)
    settings = sources.load_settings()
    yield f"{'tappass.toml' if sources.settings else 'defaults'}, [server] url = {settings.server.url}"


def _policy(serving: Serving) -> Iterator[str]:
    sources = find_files(serving.home)
    policy = sources.load_policy(frozenset(catalogue()))
    yield policy.pipeline_uuid if sources.policies else "none: calls are allowed and recorded, secrets in them masked"


def _database(serving: Serving) -> Iterator[str]:
    shown, kind = without_password(serving.database), kind_of(serving.database)
    if kind == SQLITE:
        from tappass.engine.store.migrate import state_of as state_of_file

        state = state_of_file(serving.database.removeprefix("sqlite:///"))
    else:
        from tappass.engine.store.postgres_migrate import state_of

        state = state_of(serving.database)
    told = {
        CURRENT: f"{shown}, at this version's schema",
        MISSING: f"{shown}, without tables: the first start makes them",
        OLDER: f"{shown}, of an older version: the next start brings it up to date; make a backup first",
    }
    if state not in told:
        raise TapPassConfigError(f"{shown} was written by a newer or an unreleased tappass; update this one")
    yield told[state]


def _keys(serving: Serving) -> Iterator[str]:
    for name in KEY_FILES:
        path = serving.state / name
        if not path.exists():
            yield f"{path} is not there: it is made when it is first needed"
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise TapPassConfigError(f"{path} has mode {mode:o}, others can read it; `chmod 600 {path}`")
        if name == KEY_FILES[0]:
            log_key(serving.state)
        elif name == KEY_FILES[1]:
            equality_key(serving.state)
        yield f"{path}, mode 600"
