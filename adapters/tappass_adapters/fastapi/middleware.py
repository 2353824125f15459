"""`TapPassMiddleware`: pure ASGI, one session for each request or websocket, from its first byte to its last."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeAlias

import anyio

from tappass import resume
from tappass.errors import TapPassConfigError, TapPassError
from tappass.ext import RESUME, Answer, Joining, Options, Session, answer_to, opening_of
from tappass_adapters.fastapi.exchange import KEY, Exchange
from tappass_adapters.fastapi.openapi import document_actions
from tappass_adapters.fastapi.routes import label

Asgi: TypeAlias = Any

_CLOSE_S = 5
_RESUME = RESUME.lower().encode()
_NO_RESUMPTION = Answer(
    status=403,
    code="resume_refused",
    body=b'{"type":"urn:tappass:problem:resume_refused","title":"Forbidden","status":403,'
    b'"detail":"the resume token is none of this plane, or there is more than one"}',
)


class _ResumeRefused(TapPassConfigError):
    """What stands in the header `X-TapPass-Resume` resumes nothing."""


class _ServerError(TapPassError):
    """The application answered with a status of 500 or above."""


class TapPassMiddleware:
    """Put a session around each request and websocket of an ASGI application, and answer what the plane refuses.

    The session is the caller's, where a correlation token came along, else one of its own. Background tasks, streamed
    bodies and websockets stay in it to their end. Add it last, so that it stands around your other middleware, or put
    it around the whole application: `TapPassMiddleware(app)`.

    Args:
        app: the application.
        url: the plane, by default as in `tappass_session`.
        api_key: the key for that url, and for no other.
        agent: who acts in sessions of its own.
        audience: whom the callers' tokens must be made for; by default the name of the agent that acts here.
        required: refuse requests that bring no token.
        metadata: JSON values kept beside the log, of sessions of its own.
        raise_on_redaction: as in `tappass_session`.
        respect_breakglass: as in `tappass_session`.
        on_approval: as in `tappass_session`.
        approval_timeout_s: as in `tappass_session`.
    """

    def __init__(
        self,
        app: Asgi,
        *,
        url: str | None = None,
        api_key: str | None = None,
        agent: str = "",
        audience: str = "",
        required: bool = False,
        metadata: Mapping[str, Any] | None = None,
        raise_on_redaction: bool | None = None,
        respect_breakglass: bool | None = None,
        on_approval: str | None = None,
        approval_timeout_s: float | None = None,
    ) -> None:
        self.app = app
        self._plane: dict[str, Any] = {"url": url, "api_key": api_key}
        self._told: dict[str, Any] = {"agent": agent, "metadata": dict(metadata or {})}
        self._how: dict[str, Any] = {"audience": audience or agent, "required": required}
        self._options: dict[str, Any] = {
            "raise_on_redaction": raise_on_redaction,
            "respect_breakglass": respect_breakglass,
            "on_approval": on_approval,
            "approval_timeout_s": approval_timeout_s,
        }
        opening_of(name="", **self._told)
        Options(**self._options)
        document_actions(app)

    def _is_like(self, other: TapPassMiddleware) -> bool:
        names = ("_plane", "_told", "_how", "_options")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    async def __call__(self, scope: Asgi, receive: Asgi, send: Asgi) -> None:
        """Serve one connection (ASGI 3)."""
        if scope["type"] not in ("http", "websocket"):
            document_actions(scope.get("app"))
            await self.app(scope, receive, send)
            return
        around = scope.get(KEY)
        if around is not None:
            if not self._is_like(around.owner):
                raise TapPassConfigError("there are two TapPassMiddleware around this route, with different options")
            await self.app(scope, receive, send)
            return
        exchange = Exchange(self, scope, receive, send)
        scope[KEY] = exchange
        try:
            units = await self._entered(exchange)
        except TapPassError as refused:
            answer = _NO_RESUMPTION if isinstance(refused, _ResumeRefused) else answer_to(refused)
            if answer is None:
                raise
            await exchange.answer(answer)
            return
        error: BaseException | None = None
        try:
            await self.app(exchange.scope, exchange.receive, exchange.send)
        except BaseException as raised:
            error = raised
            if not await exchange.handled(raised):
                raise
        finally:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await self._close(units, exchange, error)

    async def _entered(self, exchange: Exchange) -> contextlib.AsyncExitStack:
        """Enter the request's session: the caller's, its own, or the one whose held call it resumes."""
        scope = exchange.scope
        tokens = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == _RESUME]
        joining = Joining(
            scope["headers"],
            opening_of(name=label(scope, self.app), kind="request", **self._told),
            options=Options(**self._options),
            **self._how,
            **self._plane,
        )
        async with contextlib.AsyncExitStack() as units:
            if not tokens or joining.brought() is not None:
                exchange.session = await units.enter_async_context(joining)
            if tokens:
                exchange.session = await units.enter_async_context(self._resumed(tokens))
            return units.pop_all()

    @contextlib.asynccontextmanager
    async def _resumed(self, tokens: list[str]) -> AsyncIterator[Session]:
        unit = resume(tokens[0], **self._options, **self._plane)
        try:
            if len(tokens) > 1:
                raise TapPassConfigError("there is more than one resume token")
            session = await unit.__aenter__()
        except TapPassConfigError as error:
            raise _ResumeRefused(str(error)) from error
        async with contextlib.AsyncExitStack() as leaving:
            leaving.push_async_exit(unit)
            yield session

    async def _close(self, units: contextlib.AsyncExitStack, exchange: Exchange, error: BaseException | None) -> None:
        ended = exchange.ended(error)
        if ended is None and exchange.status >= 500:
            ended = _ServerError(f"answered with {exchange.status}")
        try:
            await exchange.settle(ended)
        finally:
            await units.__aexit__(type(ended) if ended else None, ended, None)
