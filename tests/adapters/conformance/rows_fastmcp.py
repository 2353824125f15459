"""FastMCP: a server's own tool is the unit, as with the official server."""

from __future__ import annotations

from typing import Any

from fastmcp import Client, FastMCP
from fastmcp.tools.base import ToolResult

from tappass import TapPassConnectionError, TapPassError, TapPassMCPMiddleware
from tests.adapters.conformance.looping import decision_of
from tests.adapters.conformance.row import Row
from tests.adapters.conformance.rows_mcp import Server

# Where its error results have no room for what was refused a client reads the reason, and no more.
SAYS_WHAT = "is_error" in ToolResult.model_fields


class FastServer(Server):
    name = "fastmcp-server"

    def made(self) -> Any:
        return FastMCP("office", middleware=[TapPassMCPMiddleware(server="office")])

    async def called(self, server: Any, meta: dict[str, str]) -> Any:
        async with Client(server) as client:
            return await client.call_tool("work", {}, raise_on_error=False, meta=meta or None)

    def refusal(self, result: Any) -> TapPassError:
        if (told := (result.meta or {}).get("tappass")) is None:
            # On mcp 1 it makes a result of a protocol error, with nothing beside the text.
            text = str(result.content[0].text)
            assert "the control plane is away" in text
            return TapPassConnectionError(text)
        return decision_of(told)


ROWS: list[Row] = [FastServer()] if SAYS_WHAT else []
