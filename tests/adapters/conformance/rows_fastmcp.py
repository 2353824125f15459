"""FastMCP: a server's own tool is the unit, as with the official server."""

from __future__ import annotations

from typing import Any

import anyio
from fastmcp import Client, FastMCP
from fastmcp.tools.base import ToolResult

from tappass import TapPassConnectionError, TapPassMCPMiddleware
from tests.adapters.conformance.looping import decision_of, work
from tests.adapters.conformance.row import Job, Row
from tests.adapters.conformance.rows_mcp import Server, unreachable

# Where its error results have no room for what was refused a client reads the reason, and no more.
SAYS_WHAT = "is_error" in ToolResult.model_fields


class FastServer(Server):
    name = "fastmcp-server"

    def server(self, job: Job) -> Any:
        server = FastMCP("office", middleware=[TapPassMCPMiddleware(server="office")])

        @server.tool(name="work")
        def tool() -> str:
            """Do what is to be done."""
            return work(job)

        return server

    def run(self, job: Job, **meta: str) -> str:
        async def main() -> Any:
            async with Client(self.server(job)) as client:
                return await client.call_tool("work", {}, raise_on_error=False, meta=meta or None)

        try:
            result = anyio.run(main)
        except* Exception as group:
            raise unreachable(group) from None
        text = str(result.content[0].text)
        if not result.is_error:
            return text
        if (told := (result.meta or {}).get("tappass")) is None:
            # On mcp 1 it makes a result of a protocol error, with nothing beside the text.
            assert "the control plane is away" in text
            raise TapPassConnectionError(text)
        raise decision_of(told)


ROWS: list[Row] = [FastServer()] if SAYS_WHAT else []
