"""One request and its response, or one websocket: what was sent already, and how an error is answered."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread

from tappass.errors import GovernanceDecision
from tappass.ext import MEDIA_TYPE, Answer, Interception, Session, answer_to

if TYPE_CHECKING:
    from tappass_adapters.fastapi.middleware import TapPassMiddleware

KEY: Final = "tappass"
_IDS = (
    (b"x-tappass-session", "session_id"),
    (b"x-tappass-task", "task_id"),
    (b"x-tappass-agent", "agent_uuid"),
    (b"x-tappass-pipeline", "pipeline_uuid"),
    (b"x-tappass-audit-url", "audit_url"),
)
_OURS = frozenset(name for name, _ in _IDS)
_STARTS = ("http.response.start", "websocket.http.response.start", "websocket.accept")
# RFC 6455, section 7.4.1, and its registry: a policy was violated; try again later.
_REFUSED, _LATER = 1008, 1013
_MARKED = "__tappass_marked__"


class Exchange:
    """What a middleware knows of one connection.

    Attributes:
        owner: the middleware.
        scope: the connection's ASGI scope.
        session: what its calls belong to, None until that is known.
        status: the status of the response, 0 until it has one.
        later: governed actions that end with the response.
    """

    def __init__(self, owner: TapPassMiddleware, scope: Any, receive: Any, send: Any) -> None:
        self.owner, self.scope = owner, scope
        self.session: Session | None = None
        self.status = 0
        self.later: list[Interception] = []
        self._receive, self._send = receive, send
        # A middleware of the application itself: what it raises is answered around it.
        self._inside = scope.get("app")
        self._websocket = scope["type"] == "websocket"
        self._connected = self._accepted = self._closed = self._muted = False
        self._decision: GovernanceDecision | None = None

    async def receive(self) -> Any:
        """Receive a message (ASGI)."""
        message = await self._receive()
        self._connected = True
        if message["type"] == "websocket.disconnect":
            self._closed = True
        return message

    async def send(self, message: Any) -> None:
        """Send a message (ASGI), with the session's ids where a response starts."""
        kind = message["type"]
        if kind in _STARTS:
            if (refused := self._swallowed(message)) is not None:
                self._muted = True
                await self._respond(refused)
                return
            self.status = message.get("status", 101)
            self._accepted = self._accepted or kind == "websocket.accept"
            message = {**message, "headers": self._marked(message.get("headers", ()))}
        elif self._muted:
            return
        elif kind == "websocket.close":
            self._closed = True
        await self._send(message)

    def _swallowed(self, message: Any) -> Answer | None:
        """Return our answer where a page about any error is being sent while one of ours is in flight."""
        # Frameworks send their page for an unhandled error while they handle it.
        error = sys.exception()
        known = decision_in(error) or error
        answer = answer_to(known) if known is not None else None
        if answer is None or self.status:
            return None
        self._decision = known if isinstance(known, GovernanceDecision) else None
        handlers = self.scope.get("starlette.exception_handlers", ({},))[0]
        if message.get("status") != 500 or any(kind in handlers for kind in type(known).__mro__):
            return None
        return answer

    def ids(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that say where this exchange is on record."""
        if self.session is None:
            return []
        told = self._decision or self.session.correlation
        named = [(name, str(getattr(told, field)).encode("ascii", "replace")) for name, field in _IDS]
        return [(name, value) for name, value in named if value]

    def _marked(self, headers: Any) -> list[tuple[bytes, bytes]]:
        return [*((name, value) for name, value in headers if name.lower() not in _OURS), *self.ids()]

    # Errors.

    async def handled(self, error: BaseException) -> bool:
        """Answer an error that came out of the application; tell whether it ends here."""
        if self._muted:
            return True
        decision = decision_in(error)
        self._decision = decision or self._decision
        answer = answer_to(decision or error)
        if answer is not None and (not self.status or self._websocket):
            await self.answer(answer)
            return True
        if isinstance(error, Exception) and not self.status and not self._websocket:
            await self._unhandled(error)
        return False

    async def answer(self, answer: Answer) -> None:
        """Answer instead of the application."""
        if not self._websocket:
            await self._respond(answer)
            return
        if not self._connected:
            await self.receive()
        if self._closed:
            return
        # Its client may be gone, and an error is in flight that nothing here may replace.
        with contextlib.suppress(RuntimeError, OSError):
            if not self._accepted and "websocket.http.response" in self.scope.get("extensions", ()):
                await self._respond(answer, "websocket.http.response")
            else:
                code = _LATER if answer.status == 503 else _REFUSED
                await self._send({"type": "websocket.close", "code": code, "reason": answer.code})

    async def _respond(self, answer: Answer, kind: str = "http.response") -> None:
        self.status = answer.status
        told = {"content-type": MEDIA_TYPE, "content-length": str(len(answer.body)), **answer.headers}
        headers = [(name.lower().encode(), value.encode()) for name, value in told.items()]
        start = {"type": f"{kind}.start", "status": answer.status, "headers": [*headers, *self.ids()]}
        await self._send(start)
        await self._send({"type": f"{kind}.body", "body": answer.body})

    async def _unhandled(self, error: Exception) -> None:
        """Have the page for an unhandled error carry the session's ids, whoever sends it."""
        page = _page_of(self._inside)
        if page is None:
            if self._inside is None:
                await self.send({"type": "http.response.start", "status": 500, "headers": _PLAIN})
                await self.send({"type": "http.response.body", "body": b"Internal Server Error"})
            return
        from starlette.requests import Request

        request = Request(self.scope)
        if page.debug:
            response = await run(page.debug_response, request, error)
        elif page.handler is None:
            response = page.error_response(request, error)
        else:
            # The application's own, which must run once: it is called around us, and only marked.
            if not hasattr(page.handler, _MARKED):
                page.handler = _marking(page.handler)
            return
        # Sent from here it goes through `send`; around us nothing is sent twice.
        await response(self.scope, self.receive, self.send)

    # The end.

    def ended(self, error: BaseException | None) -> BaseException | None:
        """Return the error that the exchange ends with, if any; a websocket that its client closed ends without."""
        if type(error).__name__ == "WebSocketDisconnect" and getattr(error, "code", 0) in (1000, 1001):
            return None
        return decision_in(error) or error or self._decision

    async def settle(self, error: BaseException | None) -> None:
        """Close the record of the actions that end with the response."""
        while self.later:
            await settled(self.later.pop(), error)


async def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call somebody's function as Starlette does: on a thread where it is not async, since it may block."""
    if inspect.iscoroutinefunction(function):
        return await function(*args, **kwargs)
    result = await anyio.to_thread.run_sync(functools.partial(function, *args, **kwargs))
    return await result if inspect.isawaitable(result) else result


async def settled(call: Interception, error: BaseException | None) -> None:
    """Close the record of an action whose result nobody here can see."""
    try:
        await call.aafter(object(), error)
    except BaseException as raised:
        if raised is not error:
            raise


_PLAIN = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21")]


def decision_in(error: BaseException | None) -> GovernanceDecision | None:
    """Return the decision that an error is, or that a group of nothing but decisions holds."""
    while isinstance(error, BaseExceptionGroup) and error.split(GovernanceDecision)[1] is None:
        error = error.exceptions[0]
    return error if isinstance(error, GovernanceDecision) else None


def _page_of(app: Any) -> Any:
    """Return the middleware of Starlette that answers an application's unhandled errors, None where there is none."""
    errors: Any = sys.modules.get("starlette.middleware.errors")
    stack = getattr(app, "middleware_stack", None)
    while stack is not None and errors is not None and not isinstance(stack, errors.ServerErrorMiddleware):
        stack = getattr(stack, "app", None)
    return stack if errors is not None else None


def _marking(handler: Any) -> Any:
    """Return an application's own handler of errors with the ids of the exchange on what it answers."""

    async def told(request: Any, error: Exception) -> Any:
        response = await run(handler, request, error)
        exchange = request.scope.get(KEY)
        if exchange is not None and hasattr(response, "headers"):
            for name, value in exchange.ids():
                response.headers[name.decode()] = value.decode()
        return response

    setattr(told, _MARKED, True)
    return told
