"""The server's log: JSON lines on stderr, one a request, with the ids of its record; no payload, no key, no query."""

from __future__ import annotations

import logging
import sys
import time
import traceback
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars

from tappass.errors import TapPassError
from tappass.server import metrics
from tappass.wire.ids import rfc3339

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from litestar.types import ASGIApp

_FRAMES = 12
_NAME = "tappass.server"
_log: Any = structlog.get_logger()
# Where lines go, once that is set up.
_lines: structlog.BytesLogger | None = None


def configure() -> None:
    """Have everything this process logs written as JSON lines to stderr."""
    global _lines
    _lines = structlog.BytesLogger(sys.stderr.buffer)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _frames_only,
    ]
    # Straight to the stream: a line a request through the standard library's loggers costs what a decision does.
    structlog.configure(
        processors=[
            _ours,
            *shared,
            structlog.processors.JSONRenderer(serializer=lambda line, **_: msgspec.json.encode(line)),
        ],
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    out = logging.StreamHandler(sys.stderr)
    last: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()]
    foreign = [structlog.stdlib.add_logger_name, *shared]
    out.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=foreign, processors=last))
    logging.basicConfig(handlers=[out], level=logging.INFO, force=True)
    for name in ("httpx", "httpcore", "uvicorn.error"):
        # Theirs say nothing that a line a request does not; an upstream's address may hold what is nobody's business.
        logging.getLogger(name).setLevel(logging.WARNING)


def note(**ids: str) -> None:
    """Add ids to the lines of the request that is being served: `session_id`, `task_id`, `agent_uuid`."""
    bind_contextvars(**{name: value for name, value in ids.items() if value})


def failed(error: BaseException) -> None:
    """Note what went wrong inside."""
    with suppress(OSError, ValueError):
        _log.error("failed", exc_info=error)


def said(event: str, **fields: Any) -> None:
    """Note what the server did."""
    # Nobody reads the stream any more: no reason to fail a request.
    with suppress(OSError, ValueError):
        _log.info(event, **fields)


def _request_said(**fields: Any) -> None:
    """Note a request that was answered, as `said` does."""
    if _lines is None:
        said("request", **fields)
        return
    # There is one for each request: through structlog's processors it costs what judging a call does.
    fields |= get_contextvars()
    line = {"event": "request", **fields, "logger": _NAME, "level": "info", "timestamp": rfc3339(time.time_ns())}
    with suppress(OSError, ValueError):
        _lines.msg(msgspec.json.encode(line))


def _ours(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["logger"] = _NAME
    return event


def _frames_only(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put an exception's type and places into a line; its text only if it is ours, for others' may quote a payload."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        if isinstance(error, TapPassError):
            event["error_text"] = str(error)
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        event["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        if error.__cause__ is not None:
            event["cause"] = type(error.__cause__).__name__
    return event


class RequestLog:
    """Writes one line for every request, counts it, and names it by a header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, request_id = time.perf_counter(), 0, uuid.uuid4().hex
        clear_contextvars()
        bind_contextvars(request_id=request_id)

        async def named(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                if all(name.lower() != b"x-request-id" for name, _ in headers):  # AuthZEN answers the caller's own
                    headers.append((b"x-request-id", request_id.encode()))
                message["headers"] = headers
            await send(message)

        try:
            await self._app(scope, receive, named)
        finally:
            seconds = time.perf_counter() - began
            # The route's pattern, not the path: a path may hold anything.
            route = str(scope.get("path_template") or "unmatched")
            metrics.served(scope["method"], route, status, seconds)
            client = scope.get("client")
            principal: Any = scope.get("principal")
            session_id = str(scope.get("path_params", {}).get("session_id", ""))
            if session_id.startswith("ses_") and session_id.isidentifier():
                note(session_id=session_id)
            who = {"key_id": principal.key_id, "org_id": principal.org_id} if principal is not None else {}
            _request_said(
                method=scope["method"],
                route=route,
                status=status,
                duration_ms=round(seconds * 1000, 3),
                client=client[0] if client else "",
                **who,
            )
