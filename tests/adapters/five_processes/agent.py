"""The second of the five: an agent behind HTTP, whose model asks for the tool that writes to the peer."""

from __future__ import annotations

import json
import os
from typing import Any

import httpx
from a2a.client import ClientConfig, create_client
from a2a.types import Message, Part, Role, SendMessageRequest
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tappass_adapters.a2a import CorrelationInterceptor

from tappass import guard_agent, join_correlation
from tests.adapters.five_processes.standing import note, serve


async def bill(order: str, amount: int) -> str:
    """Have the billing agent charge an order."""
    note("bill", order=order, amount=amount)
    message = Message(
        message_id=order, role=Role.ROLE_USER, parts=[Part(text=json.dumps({"order": order, "amount": amount}))]
    )
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        config = ClientConfig(streaming=False, httpx_client=http)
        client = await create_client(os.environ["NEXT"], config, interceptors=[CorrelationInterceptor()])
        said = [event.message.parts[0].text async for event in client.send_message(SendMessageRequest(message=message))]
        await client.close()
    return said[-1]


model = ChatOpenAI(model="scripted-1", base_url=os.environ["MODEL"], api_key="none", max_retries=0, timeout=60)
agent: Any = create_agent(model, [bill])


async def run(request: Request) -> PlainTextResponse:
    asked = (await request.body()).decode()
    async with join_correlation(request.headers.raw, audience="assistant"), guard_agent(agent) as guarded:
        ended = await guarded.ainvoke({"messages": [("user", asked)]})
    return PlainTextResponse(ended["messages"][-1].text)


if __name__ == "__main__":
    serve(Starlette(routes=[Route("/", run, methods=["POST"])]))
