"""Model Context Protocol: the guard around a client's connection, and the middleware of a server.

| module | what it holds |
| --- | --- |
| `client` | `guard_mcp_client`: one connection's lifetime |
| `proxies` | what stands in for the client: every way to send leads through the gate |
| `gate` | one request: who may send it, what is sent, what may be seen of its answer |
| `catalogue` | what the server lists, how old that is, what speaks against a tool |
| `names` | which tools this process offers under which name |
| `hostile` | what in a definition's words speaks against it |
| `content` | answers as they are shown for inspection |
| `server` | `TapPassMCPMiddleware`: one request on the server |
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tappass_adapters.mcp.client import guard_mcp_client
    from tappass_adapters.mcp.server import TapPassMCPMiddleware

_HOMES = {"TapPassMCPMiddleware": "server", "guard_mcp_client": "client"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = ["TapPassMCPMiddleware", "guard_mcp_client"]
