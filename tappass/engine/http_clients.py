"""The pooled HTTP clients: one for the process, one for each event loop, none older than the last fork."""

from __future__ import annotations

import atexit
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from tappass import forking

if TYPE_CHECKING:
    import httpx

_lock = forking.Lock()
_client: httpx.Client | None = None
_inherited: list[Any] = []
_loop_client: anyio.lowlevel.RunVar[tuple[int, httpx.AsyncClient, AsyncGenerator[httpx.AsyncClient, None]]]
_loop_client = anyio.lowlevel.RunVar("tappass_upstream_client")


def client() -> httpx.Client:
    """Return the process's client."""
    global _client
    with _lock:
        if _client is None:
            with forking.unforked:
                import httpx

                _client = httpx.Client(follow_redirects=False, mounts=_no_proxy_on_loopback())
        return _client


async def aclient() -> httpx.AsyncClient:
    """Return the running event loop's client; it closes when the loop does."""
    known = _loop_client.get(None)
    if known is not None and known[0] == os.getpid():
        return known[1]
    if known is not None:
        _inherited.append(known)
    # Event loops close the asynchronous generators that are still open, and so our connections with them.
    lifetime = _while_loop_runs()
    opened = await anext(lifetime)
    _loop_client.set((os.getpid(), opened, lifetime))
    return opened


@asynccontextmanager
async def pieces(response: httpx.Response) -> AsyncGenerator[AsyncIterator[bytes], None]:
    """Read an answer's bytes, and leave nothing half read behind."""
    reading = response.aiter_bytes()
    try:
        yield reading
    finally:
        # httpx nests several asynchronous generators here, and trio complains of each that is dropped half read.
        # A read that is cancelled ends them all, and the connection with them.
        with anyio.CancelScope() as scope:
            scope.cancel()
            async for _ in reading:
                pass


def close() -> None:
    """Close the process's client; the next request makes another."""
    global _client
    with _lock:
        closing, _client = _client, None
    if closing is not None:
        closing.close()


async def _while_loop_runs() -> AsyncGenerator[httpx.AsyncClient, None]:
    with forking.unforked:
        import httpx

        client = httpx.AsyncClient(follow_redirects=False, mounts=_no_proxy_on_loopback())
    async with client as opened:
        yield opened


def _no_proxy_on_loopback() -> dict[str, None]:
    return {"all://127.0.0.1": None, "all://localhost": None, "all://[::1]": None}


def _forget_in_child() -> None:
    global _client
    # Kept, not dropped: closing would end the parent's TLS connections.
    _inherited.append(_client)
    _client = None


atexit.register(close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
