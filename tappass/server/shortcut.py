"""`POST /v1/govern` as it is asked thousands of times a second: answered without the framework, or handed on to it.

Measured on one core: the framework's share of an answered question was a quarter, a hop to a thread another one.
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar.types import ASGIApp

from tappass.engine.credentials import AGENT, Principal
from tappass.plane.embedded import EmbeddedPlane
from tappass.server import deciding
from tappass.server.grouping import grouping
from tappass.server.house import House
from tappass.server.working import BRIEF_BYTES, is_brief, work
from tappass.wire.govern import GovernRequest
from tappass.wire.service import CORRELATION

PATH = "/v1/govern"
_PLACED = CORRELATION.lower().encode()
_JSON = (b"content-type", b"application/json")

_request = msgspec.json.Decoder(GovernRequest)
_encode = msgspec.json.Encoder().encode


class Shortcut:
    """Answers what is ordinary; whatever else a request is, or comes to, is the route's to answer.

    Ordinary is a question in JSON with the key of an agent that was looked up a moment ago. A question that is handed
    on after it failed here was not decided, or is known by its id.
    """

    def __init__(self, app: ASGIApp, house: House) -> None:
        self._app, self._house = app, house

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        who = self._ordinary(dict(scope["headers"]), scope)
        if who is None:
            await self._app(scope, receive, send)
            return
        taken: list[Any] = []
        try:
            answer = await self._answered(*who, await _body(receive, taken))
        except Exception as error:
            await self._app(scope, _again(taken, error, receive), send)
            return
        scope["principal"], scope["path_template"] = who[1], PATH
        headers = [_JSON, (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _ordinary(self, headers: dict[bytes, bytes], scope: Any) -> tuple[EmbeddedPlane, Principal] | None:
        kind, _, key = headers.get(b"authorization", b"").partition(b" ")
        if kind != b"Bearer" or headers.get(b"content-type") != _JSON[1] or _PLACED in headers or scope["query_string"]:
            return None
        principal = self._house.credentials.remembered(key.decode("latin-1"))
        if principal is None or not principal.may(AGENT):
            return None
        plane = self._house.opened(principal.org_id, principal.project_id)
        return None if plane is None else (plane, principal)

    async def _answered(self, plane: EmbeddedPlane, principal: Principal, body: bytes) -> bytes:
        asked, given = _request.decode(body), None
        if is_brief(self._house, body):
            given = deciding.answer(plane, principal, asked)
        elif (store := grouping(self._house, plane.engine.store)) is not None and len(body) <= BRIEF_BYTES:
            given = await deciding.answer_in_group(plane, store, principal, asked)
        if given is None:
            given = await work(deciding.answer, plane, principal, asked)
        return _encode(deciding.told(given))


async def _body(receive: Any, taken: list[Any]) -> bytes:
    """Take a request's body; `BodyLimits` gives all of it at once."""
    message = await receive()
    taken.append(message)
    if message["type"] != "http.request" or message.get("more_body"):
        raise ValueError("not a whole body")
    body: bytes = message["body"]
    return body


def _again(taken: list[Any], error: Exception, receive: Any) -> Any:
    """Return what gives the route the body that was taken, or the error that taking it met."""

    async def replayed() -> Any:
        if taken:
            return taken.pop(0)
        if told:
            raise told.pop()
        return await receive()

    told = [] if taken else [error]
    return replayed
