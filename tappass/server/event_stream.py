"""A response of server-sent events whose source ends with it, however it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from litestar.response.streaming import Stream
from litestar.types import ASGIApp, Receive, Scope, Send

MEDIA_TYPE = "text/event-stream"


class EventStream(Stream):
    """Server-sent events (WHATWG HTML, section 9.2) from an async generator.

    A client that goes away closes the generator at once, not whenever it is collected: its call is settled then.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        # Proxies must neither keep nor collect what is meant to be read as it comes.
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events, media_type=MEDIA_TYPE, headers=headers)
        self._events = events

    def to_asgi_response(self, *args: Any, **kwargs: Any) -> Any:
        """Return the response as ASGI takes it."""
        return _closing(super().to_asgi_response(*args, **kwargs), self._events)


def _closing(response: ASGIApp, events: AsyncGenerator[bytes, None]) -> ASGIApp:
    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(events):
            await response(scope, receive, send)

    return respond
