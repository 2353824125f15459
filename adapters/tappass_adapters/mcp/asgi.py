"""The middleware in front of any ASGI application: correlation alone, since what is asked stands in the body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import mcp

from tappass.errors import TapPassConfigError, TapPassConnectionError, TapPassError
from tappass.ext import CORRELATION
from tappass_adapters.mcp.requests import only
from tappass_adapters.mcp.ruling import Arrival, Wanted

Send = Callable[[Any], Awaitable[None]]

# mcp 1 runs the requests of a connection that it keeps where the first of them came in: in that one's session.
_MIXES = not hasattr(mcp, "Client")
_KEPT = b"mcp-session-id"


async def carry(app: Any, wanted: Wanted, scope: Any, receive: Any, send: Send) -> None:
    """Run the application in the session that the request's header names; without one, in none of ours."""
    if scope["type"] != "http":
        await app(scope, receive, send)
        return
    name = CORRELATION.encode()
    tokens = [value for key, value in scope["headers"] if key.lower() == name]
    if not tokens:
        await app(scope, receive, send)
        return
    try:
        token = only([value.decode("latin-1") for value in tokens])
        if _MIXES and (_is_kept(scope["headers"]) or b"session_id=" in scope.get("query_string", b"")):
            raise _mixed()
        unit = Arrival(token, wanted, wanted.server)
        await unit.aopen()
    except TapPassError as error:
        await _refuse(send, error)
        return
    try:
        with unit.active():
            await app(scope, receive, _watching(send) if _MIXES else send)
    finally:
        await unit.aclose()


def _is_kept(headers: Any) -> bool:
    return any(name.lower() == _KEPT for name, _ in headers)


def _mixed() -> TapPassConfigError:
    return TapPassConfigError(
        "mcp 1 cannot follow a correlation token into a connection that it keeps; "
        "run the server with stateless_http=True"
    )


def _watching(send: Send) -> Send:
    """Return a way to send that answers with a refusal where the server begins to keep a connection."""
    refused = False

    async def watched(message: Any) -> None:
        nonlocal refused
        if message["type"] == "http.response.start" and _is_kept(message.get("headers", ())):
            refused = True
            await _refuse(send, _mixed())
        if not refused:
            await send(message)

    return watched


async def _refuse(send: Send, error: TapPassError) -> None:
    status = 503 if isinstance(error, TapPassConnectionError) else 403
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"nothing ran: {error}".encode()})
