"""The third of the five: an agent that speaks A2A, and charges orders with a tool of an MCP server."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from typing import Any

import mcp
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Message, Part, Role
from starlette.applications import Starlette
from tappass_adapters.a2a import CorrelationContextBuilder, JoiningExecutor, with_extension

from tappass import guard_mcp_client, tool
from tests.adapters.five_processes.standing import note, serve


@asynccontextmanager
async def _connection(url: str) -> Any:
    """Yield a client that is connected, of either major version."""
    if hasattr(mcp, "Client"):
        async with mcp.Client(url) as client:
            yield client
        return
    from mcp.client.streamable_http import streamable_http_client

    async with streamable_http_client(url) as (read, write, _), mcp.ClientSession(read, write) as session:
        await session.initialize()
        yield session


@tool
async def charge(order: str, amount: int) -> str:
    note("charge", order=order, amount=amount)
    async with guard_mcp_client(_connection(os.environ["NEXT"]), server="ledger") as client:
        result = await client.call_tool("post", {"order": order, "amount": amount})
    text = str(result.content[0].text)
    if result.model_dump(by_alias=True)["isError"]:
        raise RuntimeError(text)
    return text


class Billing(AgentExecutor):
    async def execute(self, context: Any, event_queue: Any) -> None:
        text = await charge(**json.loads(context.get_user_input()))
        await event_queue.enqueue_event(
            Message(
                message_id=f"{context.task_id}-answer",
                role=Role.ROLE_AGENT,
                parts=[Part(text=text)],
                context_id=context.context_id,
            )
        )

    async def cancel(self, context: Any, event_queue: Any) -> None:
        raise NotImplementedError


def application(url: str) -> Starlette:
    card = with_extension(
        AgentCard(
            name="billing",
            description="charges orders",
            version="1",
            supported_interfaces=[AgentInterface(url=f"{url}/rpc", protocol_binding="JSONRPC", protocol_version="1.0")],
            capabilities=AgentCapabilities(streaming=True),
            default_input_modes=["text/plain"],
            default_output_modes=["text/plain"],
            skills=[AgentSkill(id="charge", name="charge", description="charges an order", tags=["money"])],
        )
    )
    executor = JoiningExecutor(Billing(), card, required=True)
    handler = DefaultRequestHandler(
        agent_executor=executor,
        task_store=InMemoryTaskStore(),
        agent_card=card,
        request_context_builder=executor.contexts,
    )
    routes = create_jsonrpc_routes(handler, rpc_url="/rpc", context_builder=CorrelationContextBuilder())
    return Starlette(routes=[*create_agent_card_routes(card), *routes])


if __name__ == "__main__":
    serve(application(f"http://127.0.0.1:{os.environ['PORT']}"))
