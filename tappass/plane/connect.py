"""From a url to a plane, one per process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tappass.errors import TapPassConfigError
from tappass.plane.followed import FILE, FOLDER, followed_url
from tappass.session.registry import registry

if TYPE_CHECKING:
    from pathlib import Path

    from tappass.enforcement.port import Plane
    from tappass.plane.embedded import EmbeddedPlane


_EMBEDDED = ("embedded:", "embedded")


def connect(url: str | None = None, api_key: str | None = None) -> Plane:
    """Return the plane for a url: a server's (`https://host:port`), `sqlite:///…`, `postgresql://…`, or no url at all.

    Without a url: `TAPPASS_URL` (then with `TAPPASS_API_KEY`), then `url` in `tappass.toml` (where there is a
    `.tappass/` here, the one accepted in it), then `.tappass/` under the working directory. A key is only ever sent
    to the url it was given for.

    Raises:
        TapPassConfigError: the url has a scheme that this version does not speak, lacks a key, or an extra is missing.
        TapPassConnectionError: the database, or the outbox of a server's, cannot be opened.
    """
    named, url = url is not None, url or url_here()
    if url.partition(":")[0].lower() in ("http", "https"):
        return _remote(url, _key_for(url, api_key, named=named))
    scheme = url.partition(":")[0].lower()
    if scheme in ("sqlite", "embedded"):
        path = _path_of(url)
        return registry.plane(f"sqlite:///{path}", lambda: _embedded(path))
    if scheme in ("postgresql", "postgres"):
        return registry.plane(url, lambda: _on_postgresql(url))
    if scheme == "memory":
        return registry.plane(url, lambda: _unknown(url))
    raise TapPassConfigError(
        f"`{_without_secrets(url)}` is no plane this version can reach; use `https://host:port` for a server, "
        "`sqlite:///path/to/tappass.db`, `postgresql://…`, or leave the url out for `.tappass/` here"
    )


def url_here() -> str:
    """Return the url in force where code names none: `TAPPASS_URL`, `tappass.toml`'s, else an embedded one.

    The latter two are looked for where the process first asked: a tool that goes to another directory takes no call to
    another plane.
    """
    if url := os.environ.get("TAPPASS_URL"):
        return url
    directory = registry.directory()
    url = followed_url(directory) or "embedded:"
    if url in _EMBEDDED:
        return f"sqlite:///{os.path.join(directory, FOLDER, FILE)}"
    head, there, path = url.partition("sqlite:///")
    return url if head or not there else f"sqlite:///{os.path.join(directory, path)}"


def home_of(database: Path) -> Path:
    """Return where the policy of a database file lies: beside its `.tappass` directory, or beside itself."""
    return database.parent.parent if database.parent.name == FOLDER else database.parent


def database_of(url: str) -> Path:
    """Return the database file that an embedded url means, as an absolute path."""
    from pathlib import Path

    return Path(_path_of(url))


def _path_of(url: str) -> str:
    if url.startswith("sqlite:///"):
        return os.path.abspath(url.removeprefix("sqlite:///"))
    if url in _EMBEDDED:
        return os.path.join(os.getcwd(), FOLDER, FILE)
    raise TapPassConfigError(f"`{_without_secrets(url)}` is no database url; write `sqlite:///path/to/tappass.db`")


def _unknown(url: str) -> Plane:
    raise TapPassConfigError(f"no plane is registered as `{url}`; `tappass.testing` makes planes in memory")


def _without_secrets(url: str) -> str:
    head, _, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if head else url


def _key_for(url: str, api_key: str | None, *, named: bool) -> str:
    """Return the key that was given for a url: by the same call, or by the environment that names the same place."""
    given_for = os.environ.get("TAPPASS_URL", "")
    if api_key and (named or given_for):
        return api_key
    from tappass.plane.origin import same_place

    if given_for and same_place(url, given_for):
        return os.environ.get("TAPPASS_API_KEY", "")
    if api_key or (os.environ.get("TAPPASS_API_KEY") and not given_for):
        # A file names this url, and whoever can write the file would get the key.
        raise TapPassConfigError(
            "a key is only sent to the url that it was given for; pass url=... with it, or set TAPPASS_URL beside "
            "TAPPASS_API_KEY"
        )
    return ""


def _remote(url: str, api_key: str) -> Plane:
    from tappass.plane.origin import origin_of

    origin = origin_of(url, api_key)

    def make() -> Plane:
        from pathlib import Path

        from tappass.plane.remote import RemotePlane

        return RemotePlane(origin, Path(registry.directory()))

    return registry.plane(f"{origin.url}#{origin.digest}", make)


def _embedded(path: str) -> Plane:
    from pathlib import Path

    return _plane_class().at(Path(path))


def _on_postgresql(url: str) -> Plane:
    from pathlib import Path

    return _plane_class().on_postgresql(url, Path(registry.directory()))


def _plane_class() -> type[EmbeddedPlane]:
    from tappass.extras import missing

    try:
        from tappass.plane.embedded import EmbeddedPlane
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "tappass":
            raise
        raise missing("embedded", "the embedded plane") from error
    return EmbeddedPlane
