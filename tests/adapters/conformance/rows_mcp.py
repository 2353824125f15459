"""MCP: an agent whose tools are a server's, guarded on its side of the connection, over either revision."""

from __future__ import annotations

import json
import typing
from typing import Any

import anyio
import anyio.to_thread
import mcp

from tappass import TapPassConnectionError, TapPassError, TapPassMCPMiddleware, guard_mcp_client
from tests.adapters.conformance.looping import ask, decision_of, work
from tests.adapters.conformance.row import Job, Row
from tests.adapters.mcp.bank import MODERN, Bank, answer, over_streams, text

TYPES = {str: "string", int: "integer"}


def bank_of(job: Job) -> Bank:
    """Return a server of the job's tools."""
    bank = Bank()
    bank.tools, bank.answers = {}, {}
    for function in job.tools:
        hints = {name: hint for name, hint in typing.get_type_hints(function).items() if name != "return"}
        schema = {"type": "object", "properties": {name: {"type": TYPES[hint]} for name, hint in hints.items()}}
        bank.tools[function.__name__] = {"description": function.__doc__ or "", "inputSchema": schema}
        bank.answers[function.__name__] = lambda given, run=function: answer(text(run(**given)))
    return bank


class Session(Row):
    name = "mcp-session"
    kind = "mcp"

    def connection(self, job: Job) -> Any:
        return guard_mcp_client(server="office", **job.asked)(lambda: over_streams(bank_of(job)))()

    def run(self, job: Job) -> str:
        async def main() -> str:
            async with self.connection(job) as client:
                return await self.work(job, client)

        return anyio.run(main)

    async def work(self, job: Job, client: Any) -> str:
        messages: list[dict[str, Any]] = [{"role": "user", "content": job.prompt}]
        while True:
            said = await anyio.to_thread.run_sync(ask, job, messages)
            messages.append(said)
            if not said.get("tool_calls"):
                return str(said["content"])
            results: dict[str, str] = {}

            async def call(asked: Any, results: dict[str, str] = results) -> None:
                name, given = asked["function"]["name"], json.loads(asked["function"]["arguments"])
                try:
                    result = await client.call_tool(name, given)
                except Exception as error:  # as frameworks do
                    results[asked["id"]] = f"error: {error}"
                else:
                    results[asked["id"]] = result.content[0].text

            async with anyio.create_task_group() as group:
                for asked in said["tool_calls"]:
                    group.start_soon(call, asked)
            messages += [{"role": "tool", "tool_call_id": id_, "content": said} for id_, said in results.items()]


class Client(Session):
    name = "mcp-client"

    def connection(self, job: Job) -> Any:
        return guard_mcp_client(mcp.Client(bank_of(job).server), server="office", **job.asked)


class Legacy(Session):
    name = "mcp-client-legacy"

    def connection(self, job: Job) -> Any:
        return guard_mcp_client(mcp.Client(bank_of(job).server, mode="legacy"), server="office", **job.asked)


class Server(Row):
    """A server's own tool is the unit: what is refused inside it, the server's library makes text of."""

    name = "mcp-server"
    kind = "request"
    told = False
    around = "work"

    def made(self) -> Any:
        """Return a server without tools."""
        from mcp.server import MCPServer

        return MCPServer("office", middleware=[TapPassMCPMiddleware(server="office")])

    async def called(self, server: Any, meta: dict[str, str]) -> Any:
        """Return what its client gets."""
        async with mcp.Client(server) as client:
            return await client.call_tool("work", {}, meta=meta or None)

    def refusal(self, result: Any) -> TapPassError:
        """Return what a result of an error tells of."""
        return decision_of(result.meta["tappass"])

    def run(self, job: Job, **meta: str) -> str:
        server = self.made()

        @server.tool(name="work")
        def tool() -> str:
            """Do what is to be done."""
            return work(job)

        try:
            result = anyio.run(self.called, server, meta)
        except* Exception as group:
            raise _unreachable(group) from None
        if result.is_error:
            raise self.refusal(result)
        return str(result.content[0].text)

    def resume(self, job: Job, token: str) -> str:
        return self.run(job, **{"tappass-resume": token})


def _unreachable(error: BaseException) -> BaseException:
    """Return the error for a plane that a server says it cannot reach."""
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    return TapPassConnectionError(str(error)) if getattr(error, "code", None) == -32051 else error


ROWS: list[Row] = [Session()]
if MODERN:
    ROWS += [Client(), Legacy(), Server()]
