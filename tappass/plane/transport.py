"""The pooled connections to one server: one pool for the process, one for each event loop, none older than a fork.

They are httpx's transports, without its client: redirects are never followed, cookies never kept, and a request takes
half the time.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio.lowlevel
import httpx

from tappass import forking
from tappass.plane.exchange import Reply
from tappass.wire.version import VERSION

if TYPE_CHECKING:
    from tappass.plane.exchange import Asking
    from tappass.plane.origin import Origin

CONNECT_S = 5.0
READ_S = 30.0
TIMEOUT = "TAPPASS_TIMEOUT_S"
# Below the five seconds after which servers commonly let an idle connection go.
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=4.0)

_numbers = itertools.count(1)


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A request's body in one piece; unlike httpx's own, it leaves no generator open where a send is cancelled."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return iter((self._body,))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Pieces((self._body,))


class _Pieces:
    """The asynchronous iterator over what is there already."""

    def __init__(self, pieces: tuple[bytes, ...]) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


class Connections:
    """Sends requests to one server, each with its key.

    Args:
        origin: the server and the key.
        read_s: how long to wait for an answer that names no time of its own, in seconds.
        transport: stands in for the network, in tests.
    """

    def __init__(self, origin: Origin, *, read_s: float = READ_S, transport: Any = None) -> None:
        self._origin = origin
        self._read_s = read_s
        self._given = transport
        self._urls: dict[str, httpx.URL] = {}
        self._lock = forking.Lock()
        self._pool: tuple[int, httpx.BaseTransport] | None = None
        self._inherited: list[Any] = []
        self._loop_pool: anyio.lowlevel.RunVar[Any] = anyio.lowlevel.RunVar(f"tappass_plane_{next(_numbers)}")

    def send(self, asking: Asking) -> Reply:
        """Send a request and read the answer whole.

        Raises:
            httpx.TransportError: there was none.
        """
        response = self.begin(asking)
        try:
            body = response.read()
        finally:
            response.close()
        return Reply(status=response.status_code, headers=response.headers, body=body)

    async def asend(self, asking: Asking) -> Reply:
        """Send a request and read the answer whole; raises as `send` does."""
        response = await self.abegin(asking)
        try:
            body = await response.aread()
        finally:
            await response.aclose()
        return Reply(status=response.status_code, headers=response.headers, body=body)

    def begin(self, asking: Asking) -> httpx.Response:
        """Send a request; the caller reads the answer and closes it."""
        return self._transport().handle_request(self._request(asking))

    async def abegin(self, asking: Asking) -> httpx.Response:
        """Send a request; the caller reads the answer and closes it."""
        transport = await self._atransport()
        return await transport.handle_async_request(self._request(asking))

    def close(self) -> None:
        """Let go of the process's connections; those of an event loop go with it."""
        with self._lock:
            known, self._pool = self._pool, None
        if known is not None and known[0] == os.getpid() and self._given is None:
            known[1].close()

    def _request(self, asking: Asking) -> httpx.Request:
        url = self._urls.get(asking.path)
        if url is None:
            url = httpx.URL(self._origin.url + asking.path)
            if asking.path in _FREQUENT:
                self._urls[asking.path] = url
        headers = [("user-agent", _AGENT), ("accept-encoding", "identity"), *asking.headers]
        if asking.with_key:
            headers.append(("authorization", f"Bearer {self._origin.key}"))
        if asking.body:
            headers.append(("content-type", "application/json"))
        read_s = asking.read_s or self._read_s
        timeout = {"connect": CONNECT_S, "read": read_s, "write": READ_S, "pool": READ_S}
        request = httpx.Request(
            asking.method, url, headers=headers, content=asking.body or None, extensions={"timeout": timeout}
        )
        request.stream = _Body(asking.body)
        return request

    def _transport(self) -> httpx.BaseTransport:
        known = self._pool
        if known is not None and known[0] == os.getpid():
            return known[1]
        with self._lock:
            if self._pool is not None and self._pool[0] != os.getpid():
                # Kept, not dropped: closing would end the parent's TLS connections.
                self._inherited.append(self._pool)
                self._pool = None
            if self._pool is None:
                made = self._given or httpx.HTTPTransport(limits=_LIMITS, **self._options())
                self._pool = (os.getpid(), made)
            return self._pool[1]

    async def _atransport(self) -> httpx.AsyncBaseTransport:
        if self._given is not None:
            return self._given  # type: ignore[no-any-return]
        known = self._loop_pool.get(None)
        if known is not None and known[0] == os.getpid():
            return known[1]  # type: ignore[no-any-return]
        if known is not None:
            self._inherited.append(known)
        # Event loops close the asynchronous generators that are still open, and so our connections with them.
        lifetime = self._while_loop_runs()
        opened = await anext(lifetime)
        self._loop_pool.set((os.getpid(), opened, lifetime))
        return opened

    async def _while_loop_runs(self) -> AsyncGenerator[httpx.AsyncBaseTransport, None]:
        fast: Any = None
        if _on_asyncio():
            with contextlib.suppress(ImportError):  # the extra `speed`
                fast = importlib.import_module("httpx_aiohttp").AiohttpTransport
        transport: httpx.AsyncBaseTransport = (fast or httpx.AsyncHTTPTransport)(limits=_LIMITS, **self._options())
        try:
            yield transport
        finally:
            # Not every loop ends with its generators: some frameworks close them after each run, and run again.
            self._loop_pool.set(None)
            await transport.aclose()

    def _options(self) -> dict[str, Any]:
        parts = urlsplit(self._origin.url)
        # Reading the machine's certificates takes 20 ms, which http:// has no use for.
        options: dict[str, Any] = {"verify": parts.scheme == "https"}
        if not self._origin.is_loopback and not urllib.request.proxy_bypass(parts.hostname or ""):
            proxies = urllib.request.getproxies()
            if proxy := proxies.get(parts.scheme) or proxies.get("all"):
                options["proxy"] = httpx.Proxy(proxy)
        return options


_AGENT = f"tappass/{VERSION}"
# The paths without an id in them: remembered as parsed.
_FREQUENT = frozenset({"/health", "/sessions", "/sessions/resume", "/v1/chat/completions", "/v1/endings", "/v1/govern"})


def _on_asyncio() -> bool:
    token: Any = anyio.lowlevel.current_token()
    return not type(getattr(token, "native_token", token)).__module__.startswith("trio")
