"""One client's connection: uvicorn's, with a bound on how long and how large the head of a request may be."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tappass.problems import MEDIA_TYPE
from tappass.server.problems import Problem
from tappass.wire.codec import encode

HEAD_BYTES = 32_768
HEAD_S = 15.0

_MALFORMED = Problem(400, "that is no HTTP/1.1 request", code="bad_request")
_TOO_LARGE = Problem(431, f"the request's line and headers are over {HEAD_BYTES} bytes", code="headers_too_large")
_TOO_SLOW = Problem(408, "the request's headers did not arrive in time", code="too_slow")


class _HeadTooLargeError(Exception):
    """Ends the parsing of a request."""


class BoundedConnection(HttpToolsProtocol):
    """Refuses a head that is too large (431) or too slow (408); what was sent of it is not kept."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._awaiting, self._head = True, 0
        self._timer: asyncio.TimerHandle | None = None
        self._refusal = _MALFORMED

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for the first request."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that is not complete."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._awaiting:
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin counting: a request starts here."""
        self._awaiting, self._head = True, 0
        if self._timer is None:
            self._start_timer()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Go on to the app, unless the head is too large."""
        self._stop_timer()
        self._awaiting, self._head = False, 0
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEAD_BYTES:
            self._refusal = _TOO_LARGE
            raise _HeadTooLargeError
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed."""
        self._refuse(self._refusal)

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEAD_S, self._refuse, _TOO_SLOW)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, problem: Problem) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        body = encode(problem.body())
        head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(STATUS_LINE[problem.status] + head.encode() + body)
        self.transport.close()
