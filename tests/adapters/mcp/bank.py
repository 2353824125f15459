"""A real MCP server whose tools a test may change while it runs, for either major version of the library.

Run as a script it serves itself over stdio.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import mcp
import mcp.types as types
from mcp.server.lowlevel import Server
from mcp.shared.memory import create_client_server_memory_streams

MODERN = hasattr(mcp, "Client")
PAY = {
    "description": "Pays an amount to somebody.",
    "inputSchema": {
        "type": "object",
        "properties": {"to": {"type": "string"}, "amount": {"type": "number"}},
        "required": ["to", "amount"],
    },
}
PLAIN = {"inputSchema": {"type": "object", "properties": {}}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def answer(*blocks: dict[str, Any], **fields: Any) -> types.CallToolResult:
    return types.CallToolResult.model_validate({"content": list(blocks), **fields})


class Bank:
    """What a server offers, and what it was asked.

    Attributes:
        tools: by name, as JSON; change them and the next list shows it.
        answers: by tool, a function of the arguments (it may be a coroutine function).
        asked: every request that arrived: (method, params).
        page: how many tools a page of the list holds.
    """

    def __init__(self) -> None:
        self.tools: dict[str, dict[str, Any]] = {"pay": dict(PAY), "look": dict(PLAIN), "fails": dict(PLAIN)}
        self.answers: dict[str, Callable[[dict[str, Any]], Any]] = {
            "pay": lambda given: answer(text(f"{given['amount']} paid to {given['to']}")),
            "look": lambda _given: answer(text("bob@acme.com owes 3"), structuredContent={"who": "bob@acme.com"}),
            "fails": lambda _given: answer(text("no such account"), isError=True),
        }
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.page = 100
        self.endless = False
        self.twice = False
        self.lists = 0
        self.server = self._modern() if MODERN else self._legacy()

    def calls(self, method: str = "tools/call") -> list[dict[str, Any]]:
        return [params for asked, params in self.asked if asked == method]

    # What it answers, in JSON.

    def listed(self, cursor: str | None) -> dict[str, Any]:
        self.lists += 1
        at = int(cursor or 0)
        tools = [{"name": name, **tool} for name, tool in self.tools.items()]
        tools += tools[:1] if self.twice else []
        page = {"tools": tools[at : at + self.page]}
        more = self.endless or at + self.page < len(tools)
        return page | ({"nextCursor": str(at + self.page)} if more else {})

    async def called(self, name: str, given: dict[str, Any] | None, meta: Any) -> Any:
        self.asked.append(("tools/call", {"name": name, "arguments": given, "meta": meta}))
        made = self.answers.get(name, lambda _given: answer(text("no such tool"), isError=True))(given or {})
        return await made if isinstance(made, Awaitable) else made

    def read(self, uri: str) -> dict[str, Any]:
        self.asked.append(("resources/read", {"uri": uri}))
        if uri.endswith(".png"):
            return {"contents": [{"uri": uri, "mimeType": "image/png", "blob": "iVBORw0KGgo="}]}
        return {"contents": [{"uri": uri, "mimeType": "text/plain", "text": f"{uri}: bob@acme.com"}]}

    def prompt(self, name: str, given: dict[str, str] | None) -> dict[str, Any]:
        self.asked.append(("prompts/get", {"name": name, "arguments": given}))
        said = f"Write to {(given or {}).get('to', 'bob@acme.com')}"
        return {"messages": [{"role": "user", "content": text(said)}]}

    # The two libraries.

    def _modern(self) -> Any:
        async def list_tools(_ctx: Any, params: Any) -> Any:
            return types.ListToolsResult.model_validate(self.listed(params.cursor if params else None))

        async def call_tool(ctx: Any, params: Any) -> Any:
            if ctx.request is not None:
                self.headers.append(dict(ctx.request.headers))
            return await self.called(params.name, params.arguments, dict(ctx.meta or {}))

        async def read_resource(_ctx: Any, params: Any) -> Any:
            return types.ReadResourceResult.model_validate(self.read(params.uri))

        async def get_prompt(_ctx: Any, params: Any) -> Any:
            return types.GetPromptResult.model_validate(self.prompt(params.name, params.arguments))

        async def complete(_ctx: Any, params: Any) -> Any:
            self.asked.append(("completion/complete", params.model_dump(by_alias=True, mode="json", exclude_none=True)))
            return types.CompleteResult.model_validate({"completion": {"values": ["bob@acme.com"]}})

        return Server(
            "bank", on_list_tools=list_tools, on_call_tool=call_tool, on_read_resource=read_resource,
            on_get_prompt=get_prompt, on_completion=complete,
        )  # fmt: skip

    def _legacy(self) -> Any:
        server: Any = Server("bank")

        async def list_tools(request: Any) -> Any:
            cursor = request.params.cursor if request.params else None
            return types.ServerResult(types.ListToolsResult.model_validate(self.listed(cursor)))

        async def call_tool(request: Any) -> Any:
            params = request.params
            meta = params.meta.model_dump() if params.meta else {}
            return types.ServerResult(await self.called(params.name, params.arguments, meta))

        async def read_resource(request: Any) -> Any:
            return types.ServerResult(types.ReadResourceResult.model_validate(self.read(str(request.params.uri))))

        async def get_prompt(request: Any) -> Any:
            params = request.params
            return types.ServerResult(types.GetPromptResult.model_validate(self.prompt(params.name, params.arguments)))

        async def complete(request: Any) -> Any:
            self.asked.append(("completion/complete", request.params.model_dump(mode="json", exclude_none=True)))
            return types.ServerResult(types.CompleteResult.model_validate({"completion": {"values": ["bob@acme.com"]}}))

        server.request_handlers = {
            **server.request_handlers,
            types.ListToolsRequest: list_tools,
            types.CallToolRequest: call_tool,
            types.ReadResourceRequest: read_resource,
            types.GetPromptRequest: get_prompt,
            types.CompleteRequest: complete,
        }
        return server


# Ways to reach it.


@asynccontextmanager
async def over_streams(bank: Bank) -> AsyncIterator[Any]:
    """Yield a `ClientSession` that has shaken hands, over streams within this process."""
    async with (
        create_client_server_memory_streams() as ((read, write), (server_read, server_write)),
        anyio.create_task_group() as group,
    ):
        options = bank.server.create_initialization_options()
        group.start_soon(bank.server.run, server_read, server_write, options)
        async with mcp.ClientSession(read, write) as session:
            await session.initialize()
            yield session
        group.cancel_scope.cancel()


@asynccontextmanager
async def in_process(bank: Bank) -> AsyncIterator[Any]:
    """Yield a connected `Client` of the stateless revision."""
    async with mcp.Client(bank.server) as client:
        yield client


@asynccontextmanager
async def in_process_legacy(bank: Bank) -> AsyncIterator[Any]:
    """Yield a connected `Client` of the revision with a handshake."""
    async with mcp.Client(bank.server, mode="legacy") as client:
        yield client


WAYS = {"session": over_streams}
if MODERN:
    WAYS |= {"client": in_process, "client-legacy": in_process_legacy}


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an ASGI app on loopback; yield its base url."""
    import socket

    import uvicorn

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        listener.listen(64)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(20)


def http_app(bank: Bank) -> Any:
    """Return the ASGI app of a bank."""
    if MODERN:
        return bank.server.streamable_http_app()
    import contextlib

    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from starlette.applications import Starlette
    from starlette.routing import Mount

    manager = StreamableHTTPSessionManager(bank.server)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        async with manager.run():
            yield

    return Starlette(routes=[Mount("/mcp", app=manager.handle_request)], lifespan=lifespan)


async def serve_stdio() -> None:
    from mcp.server.stdio import stdio_server

    bank = Bank()
    bank.tools |= {"meta": dict(PLAIN), "hang": dict(PLAIN), "die": dict(PLAIN)}
    bank.answers |= {
        "meta": lambda _given: answer(text(json.dumps(bank.asked[-1][1]["meta"]))),
        "hang": lambda _given: anyio.sleep_forever(),
        "die": lambda _given: os._exit(3),
    }
    async with stdio_server() as (read, write):
        await bank.server.run(read, write, bank.server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(serve_stdio)
