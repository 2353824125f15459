"""The middleware in front of any ASGI application: correlation alone, since what is asked stands in the body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tappass.errors import TapPassConfigError, TapPassConnectionError, TapPassError
from tappass.ext import CORRELATION
from tappass_adapters.mcp.ruling import Arrival, Wanted

Send = Callable[[Any], Awaitable[None]]


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
        if len(tokens) > 1:
            raise TapPassConfigError("more than one correlation token came with this request")
        unit = Arrival(tokens[0].decode("latin-1"), wanted, wanted.server)
        await unit.aopen()
    except TapPassError as error:
        await _refuse(send, error)
        return
    try:
        with unit.active():
            await app(scope, receive, send)
    finally:
        await unit.aclose()


async def _refuse(send: Send, error: TapPassError) -> None:
    status = 503 if isinstance(error, TapPassConnectionError) else 403
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"nothing ran: {error}".encode()})
