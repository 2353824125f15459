"""What stands in for a client: the library's own methods, with the gate as their only way to send.

`Within` is the `self` that those methods run with; `Guarded` is what users hold, its public side.
"""

from __future__ import annotations

import functools
import inspect
import logging
import types as kinds
from collections.abc import Callable, Collection
from typing import Any, NoReturn

import mcp.types as types
import wrapt

from tappass.errors import TapPassConfigError
from tappass.ext import CORRELATION, printable
from tappass_adapters.mcp.catalogue import OURS
from tappass_adapters.mcp.gate import Gate, Permit
from tappass_adapters.mcp.hostile import flaw
from tappass_adapters.mcp.requests import CALL, LIST, PASSES

# Ways past the gate: the bare transport, or an object that sends by itself.
_REFUSED = frozenset({"server", "experimental", "add_response_router"})
_log = logging.getLogger("tappass")


class Within(wrapt.ObjectProxy[Any]):
    """A `ClientSession` or a `Client` as its own methods see it: what they send is governed.

    Args:
        raw: the session, or the client.
        gate: decides.
        vouched: tools whose words a person has looked at.
        permit: the call that runs, which was decided already.
    """

    def __init__(self, raw: Any, gate: Gate, vouched: Collection[str], permit: Permit | None = None) -> None:
        super().__init__(raw)
        self._self_gate = gate
        self._self_vouched = vouched
        self._self_permit = permit

    def __getattr__(self, name: str) -> Any:
        raw = self.__wrapped__
        found = inspect.getattr_static(type(raw), name, None)
        if isinstance(found, kinds.FunctionType):
            return kinds.MethodType(found, self)
        if isinstance(found, property) and found.fget is not None:
            return found.fget(self)
        value = getattr(raw, name)
        if name == "_session" and value is not None:
            return Within(value, self._self_gate, self._self_vouched, self._self_permit)
        return value

    async def send_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Send a request, once it may be."""
        raw, gate = self.__wrapped__, self._self_gate
        inner = getattr(request, "root", request)
        method, params = inner.method, _dumped(inner)
        if method in PASSES:
            result = await raw.send_request(request, *args, **kwargs)
            return self._self_listed(result) if method == LIST else result

        async def send(sent: dict[str, Any], _permit: Permit) -> Any:
            token = await gate.stamp()
            return await _sender(raw, token)(_changed(request, inner, sent, token), *args, **kwargs)

        if self._self_permit is not None and await self._self_permit.covers(method, params):
            return await send(params, self._self_permit)
        return await gate.govern(method, params, send)

    def _self_listed(self, page: Any) -> Any:
        return listed(page, self._self_vouched, self._self_gate.catalogue.server)


class Guarded(wrapt.ObjectProxy[Any]):
    """A client's public side. What would reach around the gate is refused, and so are copies."""

    def __init__(self, raw: Any, gate: Gate, vouched: Collection[str]) -> None:
        super().__init__(raw)
        self._self_gate = gate
        self._self_vouched = vouched
        self._self_within = Within(raw, gate, vouched)

    def __getattr__(self, name: str) -> Any:
        if (name.startswith("_") and not name.startswith("__")) or name in _REFUSED:
            raise AttributeError(
                f"`{name}` of a guarded MCP client reaches around the guard, so it is not given out; "
                "use the client's public methods"
            )
        value = getattr(self._self_within, name)
        return Guarded(value.__wrapped__, self._self_gate, self._self_vouched) if isinstance(value, Within) else value

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_self_") or name == "__wrapped__":
            super().__setattr__(name, value)
            return
        raise TapPassConfigError(f"`{name}` of a guarded MCP client is not to be replaced; set it before guarding")

    def __delattr__(self, name: str) -> None:
        raise TapPassConfigError(f"`{name}` of a guarded MCP client is not to be deleted")

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        return {}

    def _refuse_copy(self, *_args: Any) -> NoReturn:
        raise TapPassConfigError("a guarded MCP client is one connection; it can be neither copied nor pickled")

    __copy__ = __deepcopy__ = __reduce__ = __reduce_ex__ = __replace__ = _refuse_copy

    async def __aenter__(self) -> NoReturn:
        raise TapPassConfigError("a guarded MCP client is connected already; enter what guard_mcp_client() returns")

    async def __aexit__(self, *_exc: object) -> None:
        """Nothing: the guard closes the connection."""


class GuardedClient(Guarded):
    """A `Client`: one call is decided once, however many rounds the library makes of it."""

    async def call_tool(self, name: str, arguments: dict[str, Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        """Call a tool, once it may be; see `mcp.Client.call_tool`."""
        params = types.CallToolRequestParams(name=name, arguments=arguments)
        return await self._self_whole("call_tool", CALL, params, lambda sent: (sent.get("arguments"), *args), kwargs)

    async def read_resource(self, uri: str, **kwargs: Any) -> Any:
        """Read a resource, once it may be; see `mcp.Client.read_resource`."""
        params = types.ReadResourceRequestParams(uri=uri)
        return await self._self_whole("read_resource", "resources/read", params, None, kwargs)

    async def get_prompt(self, name: str, arguments: dict[str, str] | None = None, **kwargs: Any) -> Any:
        """Get a prompt, once it may be; see `mcp.Client.get_prompt`."""
        params = types.GetPromptRequestParams(name=name, arguments=arguments)
        return await self._self_whole(
            "get_prompt", "prompts/get", params, lambda sent: (sent.get("arguments"),), kwargs
        )

    async def list_tools(self, **kwargs: Any) -> Any:
        """List tools, those left out whose words want a person's look first; see `mcp.Client.list_tools`."""
        page = await self._self_within.list_tools(**kwargs)
        return listed(page, self._self_vouched, self._self_gate.catalogue.server)

    async def _self_whole(
        self, verb: str, method: str, params: Any, rest: Callable[[dict[str, Any]], Any] | None, kwargs: dict[str, Any]
    ) -> Any:
        async def send(sent: dict[str, Any], permit: Permit) -> Any:
            within = Within(self.__wrapped__, self._self_gate, self._self_vouched, permit)
            first = sent["uri"] if method == "resources/read" else sent["name"]
            return await getattr(within, verb)(first, *(rest(sent) if rest is not None else ()), **kwargs)

        asked = params.model_dump(by_alias=True, mode="json", exclude_none=True)
        return await self._self_gate.govern(method, asked, send)


def listed(page: Any, vouched: Collection[str], server: str) -> Any:
    """Return a page of tools without those whose words are not for a model to read."""
    kept = []
    for tool in page.tools:
        found = "" if tool.name in vouched else flaw(tool.model_dump(by_alias=True, mode="json", exclude_none=True))
        if found or tool.name in OURS:
            why = found or "goes by the name of a request"
            _log.warning("the tool `%s` of MCP server `%s` is not listed: it %s", printable(tool.name), server, why)
        else:
            kept.append(tool)
    return page if len(kept) == len(page.tools) else page.model_copy(update={"tools": kept})


def _dumped(request: Any) -> dict[str, Any]:
    """Return the params of a request as they go out."""
    dumped: dict[str, Any] = request.model_dump(by_alias=True, mode="json", exclude_none=True).get("params") or {}
    return dumped


def _changed(request: Any, inner: Any, params: dict[str, Any], token: str) -> Any:
    """Return a request with other params, and with a token among its metadata."""
    if token:
        params = params | {"_meta": (params.get("_meta") or {}) | {CORRELATION: token}}
    made = type(inner).model_validate({"method": inner.method, "params": params})
    return made if inner is request else type(request)(made)


def _sender(raw: Any, token: str) -> Any:
    """Return a session's own way to send; a token goes along as a header where the library lets one through."""
    if not token or not hasattr(raw, "_stamp"):
        return raw.send_request
    return functools.partial(type(raw).send_request, _Stamping(raw, token))


class _Stamping(wrapt.ObjectProxy[Any]):
    """A session for the length of one request, which puts a header on it."""

    def __init__(self, raw: Any, token: str) -> None:
        super().__init__(raw)
        self._self_token = token

    def _stamp(self, data: dict[str, Any], opts: Any) -> None:
        self.__wrapped__._stamp(data, opts)
        opts.setdefault("headers", {})[CORRELATION] = self._self_token
