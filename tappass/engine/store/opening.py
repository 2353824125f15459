"""From a database's url to its store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from tappass.engine.store.outage import cannot_record
from tappass.engine.store.port import Store
from tappass.errors import TapPassConfigError
from tappass.extras import missing

SQLITE, POSTGRESQL = "sqlite", "postgresql"
_SCHEMES = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "postgres": POSTGRESQL}


def kind_of(url: str) -> str:
    """Return what a database is, `sqlite` or `postgresql`.

    Raises:
        TapPassConfigError: the url is of neither.
    """
    kind = _SCHEMES.get(url.partition(":")[0].lower(), "")
    if not kind:
        raise TapPassConfigError(
            f"`{without_password(url)}` is no database; write sqlite:///path/to/tappass.db or postgresql://host/name"
        )
    return kind


def open_store(url: str, *, synchronous: str = "normal") -> Store:
    """Return the store of a database, brought to this version's tables.

    Raises:
        TapPassConnectionError: it cannot be reached, or written.
        TapPassConfigError: the url is of no database, an extra is missing, or a newer tappass wrote it.
    """
    if kind_of(url) == SQLITE:
        from tappass.engine.store.sqlite import SqliteStore

        path = Path(url.removeprefix("sqlite:///"))
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_record(str(path), error) from error
        return SqliteStore(path, synchronous=synchronous)
    try:
        from tappass.engine.store.postgres import PostgresStore
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "tappass":
            raise
        raise missing("postgres", "a PostgreSQL database") from error
    return PostgresStore(url)


def without_password(url: str) -> str:
    """Return a database's url as it may be shown."""
    if url.startswith("sqlite:"):
        return url
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
    except ValueError:
        return url.partition(":")[0] + ":…"
