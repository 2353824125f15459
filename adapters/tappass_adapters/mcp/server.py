"""TapPassMCPMiddleware: each request of an MCP server is decided before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tappass.errors import TapPassConfigError, TapPassError
from tappass.ext import CORRELATION, Options, missing

try:
    import mcp  # noqa: F401 - what is missing is said here
except ImportError as error:
    raise missing("mcp", "TapPassMCPMiddleware") from error

from tappass_adapters.mcp import asgi, fast
from tappass_adapters.mcp.answers import ERROR, RESULT, elicits, refused
from tappass_adapters.mcp.requests import CALL, PASSES, only
from tappass_adapters.mcp.ruling import Asked, Ruling, Wanted


class TapPassMCPMiddleware:
    """Governs a server's tools, resources and prompts, request by request.

        server = MCPServer("billing", middleware=[TapPassMCPMiddleware(server="billing")])      # mcp 2
        server = FastMCP("billing", middleware=[TapPassMCPMiddleware(server="billing")])        # fastmcp 3 and 4
        app = TapPassMCPMiddleware(server.streamable_http_app(), server="billing")              # any ASGI app

    A request joins the session that its token names, or gets one of its own. The last form carries correlation alone:
    it sees HTTP and not what is asked, so it decides nothing.

    Args:
        app: the ASGI application, for correlation alone.
        server: what this server is called, in rules (`mcp_server: billing`).
        audience: whom callers' tokens must be made for; `server` by default.
        url: the plane; by default as in `tappass_session`. `api_key` goes to no other.
        api_key: the key for that url.
        agent: who acts here.
        refusals: `result`, the default, answers a refused tool call so that a model can read it; `error` by a JSON-RPC
            error. Resources and prompts are always refused by an error.
        respect_breakglass: go on under an emergency override instead of refusing.
        on_approval: `wait` holds a call until people have decided.
        approval_timeout_s: how long to wait, in seconds.

    Raises:
        TapPassConfigError: an option is wrong.
    """

    def __init__(
        self,
        app: Any = None,
        /,
        *,
        server: str = "",
        audience: str = "",
        url: str | None = None,
        api_key: str | None = None,
        agent: str = "",
        refusals: str = RESULT,
        respect_breakglass: bool | None = None,
        on_approval: str | None = None,
        approval_timeout_s: float | None = None,
    ) -> None:
        if not isinstance(server, str) or not server:
            raise TapPassConfigError('TapPassMCPMiddleware needs a name for its server: server="billing"')
        if refusals not in (RESULT, ERROR):
            raise TapPassConfigError(f"refusals={refusals!r} is unknown; use {RESULT!r} or {ERROR!r}")
        options = Options(
            respect_breakglass=respect_breakglass, on_approval=on_approval, approval_timeout_s=approval_timeout_s
        )
        self._app = app
        self.wanted = Wanted(
            server=server,
            audience=audience or server,
            url=url,
            api_key=api_key,
            agent=agent,
            refusals=refusals,
            options=options,
        )
        self.ruling = Ruling(self.wanted)

    def __repr__(self) -> str:
        return f"TapPassMCPMiddleware(server={self.wanted.server!r})"

    async def __call__(self, scope: Any, receive: Any, send: Any = None) -> Any:
        """Take one message, in the shape of the server that this stands in: of ASGI three things, else two."""
        if send is not None:
            if self._app is None:
                raise TapPassConfigError("as ASGI middleware it takes the application first: TapPassMCPMiddleware(app)")
            return await asgi.carry(self._app, self.wanted, scope, receive, send)
        context, call_next = scope, receive
        if hasattr(context, "fastmcp_context"):
            return await fast.govern(self.ruling, context, call_next)
        return await self._official(context, call_next)

    async def _official(self, ctx: Any, call_next: Any) -> Any:
        if ctx.request_id is None or ctx.method in PASSES:
            return await call_next(ctx)
        params = dict(ctx.params or {})
        meta = params.pop("_meta", None) or {}

        async def run(given: dict[str, Any]) -> Any:
            changed = given if ctx.method != CALL else {"arguments": given}
            return await call_next(replace(ctx, params=dict(ctx.params or {}) | changed))

        try:
            asked = Asked(
                method=ctx.method,
                params=params,
                meta=meta,
                header=only(ctx.request.headers.getlist(CORRELATION)) if ctx.request is not None else "",
                caller=_caller(ctx),
                tool=await _listed(ctx, call_next, params.get("name"), meta) if ctx.method == CALL else None,
            )
            return await self.ruling.govern(asked, run)
        except TapPassError as error:
            return refused(self.wanted.refusals, ctx.method, error, elicits(ctx.session))


async def _listed(ctx: Any, call_next: Any, name: Any, meta: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return a tool as this server lists it to this caller, as JSON; None if it does not."""
    kept = {key: value for key, value in meta.items() if key != "progressToken"}
    cursor: dict[str, Any] = {}
    for _ in range(200):
        page = await call_next(replace(ctx, method="tools/list", params={**cursor, "_meta": kept}))
        told = page if isinstance(page, Mapping) else page.model_dump(by_alias=True, mode="json", exclude_none=True)
        for tool in told.get("tools") or ():
            if tool.get("name") == name:
                return tool  # type: ignore[no-any-return]
        if not told.get("nextCursor"):
            return None
        cursor = {"cursor": told["nextCursor"]}
    return None


def _caller(ctx: Any) -> str:
    """Return what tells this caller from others: nothing over HTTP without a session, since anybody may come there."""
    if ctx.request is None:
        return "local"
    session = ctx.request.headers.get("mcp-session-id")
    return f"session {session}" if session else ""
