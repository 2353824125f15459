"""The first of the five: a FastAPI application, which takes an order and has the agent see to it."""

from __future__ import annotations

import os

import httpx
from fastapi import FastAPI

from tappass import TapPassMiddleware, tool, with_correlation_async
from tests.adapters.five_processes.standing import note, serve

app = FastAPI()
app.add_middleware(TapPassMiddleware, agent="shop")


@tool
async def take(order: str, amount: int) -> str:
    note("take", order=order, amount=amount)
    headers = await with_correlation_async(audience="assistant")
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        answer = await http.post(os.environ["NEXT"], json={"order": order, "amount": amount}, headers=headers)
    return answer.raise_for_status().text


@app.post("/orders/{order}")
async def endpoint(order: str, amount: int) -> str:
    return await take(order, amount)


if __name__ == "__main__":
    serve(app)
