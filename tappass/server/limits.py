"""What a stranger may make the server do: how large a body, how deep, how slow, how many wrong keys."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Generator
from itertools import accumulate, count
from operator import sub
from typing import TYPE_CHECKING, Any

import anyio

from tappass.server.problems import Problem

if TYPE_CHECKING:
    from litestar.types import ASGIApp

FAILURES, WINDOW_S, ADDRESSES = 20, 60.0, 4096
DEEPEST = 200
# Arrays of what a client's outbox or log holds.
BATCHES = frozenset({"/v1/endings", "/v1/events"})

_BRACKETS = b"[]{}"
_REST = bytes(set(range(256)) - set(_BRACKETS))
_CHUNK = 65_536
# Two for a bracket that opens, none for one that closes; one is taken from each.
_STEPS = bytes(2 if chr(byte) in "[{" else 0 for byte in range(256))
_CLOSE = {"Connection": "close"}


class BodyLimits:
    """Reads a request's body when the app first asks for it: bounded in size, in time, and in depth if it is JSON.

    Args:
        app: what serves the request; gets the body whole and as UTF-8, or one of the problems 408, 413 and 422.
        body_bytes: the largest body.
        batch_bytes: the largest body of a route in `BATCHES`.
        body_s: how long a body may take to arrive.
    """

    def __init__(self, app: ASGIApp, *, body_bytes: int, batch_bytes: int, body_s: float) -> None:
        self._app, self._body_s = app, body_s
        self._body_bytes, self._batch_bytes = body_bytes, batch_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._batch_bytes if scope["path"] in BATCHES else self._body_bytes
        whole: list[Any] = []

        async def bounded() -> Any:
            if whole:
                return await receive()
            message = await self._read(scope, receive, most)
            whole.append(message)
            return message

        await self._app(scope, bounded, send)

    async def _read(self, scope: Any, receive: Any, most: int) -> Any:
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if int(declared) > most:
            raise _too_large(most)
        first = Begun(receive())
        if first.done and (arrived := _whole(first.result)) is not None:
            # As nearly always: a limit of time costs a twentieth of an answer.
            if len(arrived) > most:
                raise _too_large(most)
            return _checked(arrived)
        body = bytearray()
        try:
            with anyio.fail_after(self._body_s):
                message = await first
                while True:
                    if message["type"] != "http.request":
                        return message
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise _too_large(most)
                    if not message.get("more_body", False):
                        break
                    message = await receive()
        except TimeoutError:
            raise Problem(408, "the body did not arrive in time", code="too_slow", headers=_CLOSE) from None
        return _checked(bytes(body))


class Begun:
    """A coroutine up to where it first waits for something; awaiting this goes on with it.

    Attributes:
        done: it came to its end without waiting.
        result: what it returned, once it is done.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.done, self.result = False, None
        self._coroutine = coroutine
        self._waits_for = self._advance(coroutine.send, None)

    def _advance(self, step: Callable[[Any], Any], value: Any) -> Any:
        try:
            return step(value)
        except StopIteration as end:
            self.done, self.result = True, end.value

    def __await__(self) -> Generator[Any, Any, Any]:
        while not self.done:
            try:
                sent = yield self._waits_for
            except BaseException as error:
                self._waits_for = self._advance(self._coroutine.throw, error)
            else:
                self._waits_for = self._advance(self._coroutine.send, sent)
        return self.result


def _whole(message: Any) -> bytes | None:
    """Return the body of a message that holds all of it."""
    if message["type"] != "http.request" or message.get("more_body", False):
        return None
    body: bytes = message.get("body", b"")
    return body


def _checked(content: bytes) -> Any:
    """Return a body as the app takes it, if it is text and not too deep."""
    if not _is_text(content):
        raise Problem(422, "the body is not UTF-8 text", code="malformed")
    if too_deep(content):
        raise Problem(422, f"the body is nested over {DEEPEST} levels deep", code="malformed")
    return {"type": "http.request", "body": content, "more_body": False}


def _too_large(most: int) -> Problem:
    return Problem(413, f"the body is over {most} bytes, the most that this route takes", headers=_CLOSE)


def _is_text(body: bytes) -> bool:
    try:
        body.isascii() or body.decode()
    except UnicodeDecodeError:
        return False
    return True


def too_deep(body: bytes) -> bool:
    """Tell whether JSON is nested over `DEEPEST` levels, without reading it."""
    if len(body) <= 2 * DEEPEST or body.count(b"[") + body.count(b"{") <= DEEPEST:
        return False
    # How many were opened less how many were closed, at every bracket: a sum without a step in Python.
    steps = _brackets(body).translate(_STEPS)
    return max(map(sub, accumulate(steps), count(1)), default=0) > DEEPEST


def _brackets(body: bytes) -> bytes:
    """Return the brackets that are not within strings."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    found, inside = [], 0
    # In pieces: a body of nothing but quotes must not become millions of objects.
    for start in range(0, len(body), _CHUNK):
        parts = body[start : start + _CHUNK].split(b'"')
        found.append(b"".join(parts[inside::2]).translate(None, _REST))
        inside ^= (len(parts) - 1) & 1
    return b"".join(found)


class Attempts:
    """Keys that were not valid, counted by the client's address; bounded in memory.

    After `FAILURES` within `WINDOW_S` a further one is answered by how long to wait. A valid key passes all the same:
    one misconfigured agent must not lock out everybody behind the same address.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failed: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def failed(self, address: str) -> int:
        """Count a failure; return the seconds to wait before the next, 0 as long as there were few."""
        now = self._now()
        began, count = self._failed.pop(address, (now, 0))
        if now - began >= WINDOW_S:
            began, count = now, 0
        self._failed[address] = began, count + 1
        while len(self._failed) > ADDRESSES:
            self._failed.popitem(last=False)
        return _left(began, now) if count >= FAILURES else 0

    def waiting(self, address: str) -> int:
        """Return the seconds that an address has to wait, 0 if it may try."""
        began, count = self._failed.get(address, (0.0, 0))
        now = self._now()
        return _left(began, now) if count >= FAILURES and now - began < WINDOW_S else 0


def _left(began: float, now: float) -> int:
    return max(1, int(began + WINDOW_S - now) + 1)
