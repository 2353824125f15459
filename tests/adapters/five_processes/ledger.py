"""The fourth of the five: an MCP server, whose tool has a Temporal workflow settle the order."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import mcp
from temporalio.client import Client

from tappass import TapPassMCPMiddleware, TapPassPlugin
from tests.adapters.five_processes.settling import QUEUE, Settlement
from tests.adapters.five_processes.standing import note, serve

_clients: list[Client] = []


async def _temporal() -> Client:
    if not _clients:
        _clients.append(await Client.connect(os.environ["NEXT"], plugins=[TapPassPlugin()]))
    return _clients[0]


async def post(order: str, amount: int) -> str:
    """Post an order to the ledger."""
    note("post", order=order, amount=amount)
    client = await _temporal()
    return await client.execute_workflow(
        Settlement.run,
        args=[order, amount],
        id=f"settle-{order}",
        task_queue=QUEUE,
        # What a killed worker had taken is given to the next one after so long.
        task_timeout=timedelta(seconds=2),
        execution_timeout=timedelta(seconds=60),
    )


def application() -> Any:
    middleware = [TapPassMCPMiddleware(server="ledger")]
    if hasattr(mcp, "Client"):
        from mcp.server import MCPServer

        server = MCPServer("ledger", middleware=middleware)
        server.tool()(post)
        return server.streamable_http_app()
    # The official server of mcp 1 has no middleware.
    from fastmcp import FastMCP

    server = FastMCP("ledger", middleware=middleware)
    server.tool(post)
    return server.http_app()


if __name__ == "__main__":
    serve(application())
