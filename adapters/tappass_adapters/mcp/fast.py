"""The middleware as FastMCP calls it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from tappass.errors import TapPassConfigError, TapPassError
from tappass.ext import CORRELATION, current_session
from tappass_adapters.mcp.answers import elicits, refused
from tappass_adapters.mcp.requests import CALL, only
from tappass_adapters.mcp.ruling import GOVERNED, Asked, Ruling

# The request that is being answered: what comes in its course, a tool asks of its own server.
_answering: ContextVar[Any] = ContextVar("tappass_fastmcp_answering", default=None)


async def govern(ruling: Ruling, context: Any, call_next: Any) -> Any:
    """Govern one message of a FastMCP server; what is no request for something passes."""
    if context.method not in GOVERNED or context.type != "request":
        return await call_next(context)
    params = context.message.model_dump(by_alias=True, mode="json", exclude_none=True)
    params = params.get("params", params)
    own = params.pop("_meta", None) or {}
    request = getattr(context.fastmcp_context, "request_context", None)
    meta = _meta(request) or own

    outer = current_session() if _is_same(_answering.get(), request) else None

    async def run(given: dict[str, Any]) -> Any:
        before = _answering.set(request)
        try:
            return await call_next(context.copy(message=_changed(context.message, context.method, given)))
        finally:
            _answering.reset(before)

    try:
        asked = Asked(
            method=context.method,
            params=params,
            meta=meta,
            header=_header(),
            caller=_caller(),
            tool=await _listed(context, params.get("name"), _version(own, meta)) if context.method == CALL else None,
        )
        result = await ruling.govern(asked, run)
    except TapPassError as error:
        if outer is not None:
            # A tool asked, not the client: an answer would pass for its having been done.
            outer.let_stand(error)
            # Another than the one that stands: raised again from what was made of this one, it would be its own cause.
            raise copy.copy(error) from None
        session = getattr(request, "session", None)
        return _result(refused(ruling.wanted.refusals, context.method, error, elicits(session)))
    return _fresh(result)


def _is_same(request: Any, other: Any) -> bool:
    if request is None or other is None:
        return False
    return request.session is other.session and request.request_id == other.request_id


def _meta(request: Any) -> dict[str, Any]:
    meta = getattr(request, "meta", None)
    if meta is None or isinstance(meta, dict):
        return dict(meta or {})
    return dict(meta.model_dump(by_alias=True, exclude_none=True))


def _header() -> str:
    from fastmcp.server.dependencies import get_http_request

    try:
        request = get_http_request()
    except RuntimeError:  # it came another way
        return ""
    return only(request.headers.getlist(CORRELATION))


def _caller() -> str:
    from fastmcp.server.dependencies import get_http_headers

    headers = get_http_headers(include_all=True)
    if not headers:
        return "local"
    session = headers.get("mcp-session-id")
    return f"session {session}" if session else ""


def _version(own: dict[str, Any], meta: dict[str, Any]) -> Any:
    """Return which version of a tool is asked for, None for the newest.

    Raises:
        TapPassConfigError: what stands in its place is none.
    """
    from fastmcp.server import server
    from fastmcp.utilities.versions import VersionSpec

    # Where FastMCP says it of each call, the request's own counts for none that a tool makes.
    told = (own if hasattr(server, "_version_request_meta") else meta).get("fastmcp") or {}
    asked = told.get("version") if isinstance(told, Mapping) else None
    if not asked:
        return None
    try:
        return VersionSpec(**({"eq": asked} if isinstance(asked, str) else asked))
    except TypeError as error:
        raise TapPassConfigError("the version that this request asks for is none; nothing ran") from error


async def _listed(context: Any, name: Any, version: Any) -> dict[str, Any] | None:
    """Return a tool as this server offers it, as JSON; None if it does not."""
    if not isinstance(name, str):
        return None
    try:
        tool = await context.fastmcp_context.fastmcp.get_tool(name, version)
    except LookupError:
        return None
    if tool is None:
        return None
    listed: dict[str, Any] = tool.to_mcp_tool().model_dump(by_alias=True, mode="json", exclude_none=True)
    return listed


def _changed(message: Any, method: str, given: dict[str, Any]) -> Any:
    inner = getattr(message, "params", message)
    changed = {"arguments": given} if method == CALL else given
    dumped = inner.model_dump(by_alias=True, mode="json", exclude_none=True)
    made = type(inner).model_validate(dumped | changed)
    return made if inner is message else message.model_copy(update={"params": made})


def _result(answer: Any) -> Any:
    """Return a refusal in FastMCP's own shape."""
    from fastmcp.exceptions import ToolError
    from fastmcp.tools.base import ToolResult

    if "is_error" in ToolResult.model_fields:
        return ToolResult(content=list(answer.content), meta=answer.meta, is_error=True)
    raise ToolError(answer.content[0].text)


def _fresh(result: Any) -> Any:
    """Return a tool's result without what it remembers beside its fields: the answer as it was before redaction."""
    if "_raw_mcp_result" not in getattr(type(result), "__private_attributes__", {}):
        return result
    fields = {name: getattr(result, name) for name in type(result).model_fields}
    raw = result._raw_mcp_result
    if raw is None or (raw.content is result.content and raw.structured_content is result.structured_content):
        return result
    return type(result)(**fields)
