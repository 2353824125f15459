"""Where a remote plane is, and the key for it: what may be in either, and that the key goes nowhere else."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import os
from urllib.parse import SplitResult, urlsplit

import msgspec

from tappass.enforcement.verdicts import printable
from tappass.errors import TapPassConfigError

HTTP_HOSTS = "TAPPASS_HTTP_HOSTS"
_PORTS = {"http": 80, "https": 443}


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """One server and one key for it. `name` is its host, fit for a message; `key` never is.

    `digest` tells origins apart where the key must not stand: in file names and in the registry of planes.
    """

    url: str
    name: str
    key: str
    digest: str

    def __repr__(self) -> str:
        return f"Origin({self.url})"

    @property
    def is_loopback(self) -> bool:
        """Whether what is sent stays on this machine."""
        return _is_loopback(urlsplit(self.url).hostname or "")


def origin_of(url: str, api_key: str) -> Origin:
    """Return the origin for a url and the key that was given for it.

    Raises:
        TapPassConfigError: the url is none that a key may be sent to, or the key is none.
    """
    return _origin(url, api_key, os.environ.get(HTTP_HOSTS, ""))


@functools.lru_cache(maxsize=64)
def _origin(url: str, api_key: str, plain_hosts: str) -> Origin:
    parts = _parts(url)
    host = (parts.hostname or "").lower()
    # Host and port alone: whatever else stands in a url does not belong in a message.
    port = parts.port or _PORTS[parts.scheme]
    shown = f"[{host}]" if ":" in host else host
    name = shown if port == _PORTS[parts.scheme] else f"{shown}:{port}"
    if parts.scheme == "http" and not (_is_loopback(host) or host in _names(plain_hosts)):
        raise TapPassConfigError(
            f"a key for {name} would travel unencrypted over http://; use https://, "
            f"or name the host in {HTTP_HOSTS} if the network between is yours"
        )
    if not api_key:
        raise TapPassConfigError(
            f"{name} needs a key: pass api_key=... together with the url, or set TAPPASS_URL and TAPPASS_API_KEY"
        )
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise TapPassConfigError(f"the key for {name} has characters that no HTTP header can hold; copy it again")
    normal = f"{parts.scheme}://{name}{parts.path.rstrip('/')}"
    digest = hashlib.sha256(f"{normal}\0{api_key}".encode()).hexdigest()[:24]
    return Origin(url=normal, name=name, key=api_key, digest=digest)


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise TapPassConfigError("the plane's url cannot be read; write `https://host:port`") from None
    if "@" in parts.netloc:
        raise TapPassConfigError(
            f"the plane's url holds credentials (…@{printable(parts.netloc.rpartition('@')[2])}); "
            "leave them out, and pass the key as api_key"
        )
    if parts.scheme not in _PORTS or not parts.hostname or port == 0 or parts.query or parts.fragment:
        raise TapPassConfigError(
            f"`{printable(parts.netloc or parts.scheme)}` is no url of a plane; write `https://host:port`, "
            "without a query"
        )
    if not (parts.netloc.isascii() and parts.path.isascii() and url.isprintable() and " " not in url):
        raise TapPassConfigError("the plane's url has characters that no url holds; write `https://host:port`")
    return parts


def same_place(url: str, other: str) -> bool:
    """Tell whether two urls lead to the same server, so that a key for one may be sent to the other."""
    try:
        return _origin(url, "-", _host(url)).url == _origin(other, "-", _host(other)).url
    except TapPassConfigError:
        return False


def _host(url: str) -> str:
    return (_parts(url).hostname or "").lower()


def _names(listed: str) -> set[str]:
    return {name.strip().lower() for name in listed.split(",") if name.strip()}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
