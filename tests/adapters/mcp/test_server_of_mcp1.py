"""In front of a server of mcp 1, which has no middleware: a token counts for its own request, or not at all."""

from __future__ import annotations

import httpx
import pytest

from tappass import TapPassMCPMiddleware, tappass_session
from tappass.ext import current_session as here
from tests.adapters.mcp.bank import MODERN, served

if MODERN:
    pytest.skip("mcp 2 runs each request where it came in", allow_module_level=True)

from mcp.server.fastmcp import FastMCP

pytestmark = pytest.mark.anyio

VERSION = {"mcp-protocol-version": "2025-06-18"}
WHO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "a test", "version": "1"}}


class Shop:
    """A server in front of which the middleware stands, and the sessions that its tool ran in."""

    def __init__(self, **options) -> None:
        self.sessions: list = []
        self.bare = FastMCP("shop", json_response=True, **options)

        @self.bare.tool()
        async def pay(to: str) -> str:
            self.sessions.append(here())
            return "paid"

        self.app = TapPassMCPMiddleware(self.bare.streamable_http_app(), server="shop")


@pytest.fixture
def shop():
    return Shop()


@pytest.fixture
def forgetful():
    return Shop(stateless_http=True)


async def posted(url, method, params, **headers):
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    asked = {"accept": "application/json, text/event-stream", **VERSION, **headers}
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.post(f"{url}/mcp", json=message, headers=asked)


async def called(url, **headers):
    return await posted(url, "tools/call", {"name": "pay", "arguments": {"to": "ann"}}, **headers)


async def test_each_request_is_in_the_session_that_its_token_names(plane, forgetful):
    with served(forgetful.app) as url:
        async with tappass_session(name="first") as first:
            await called(url, **{"tappass-correlation": await first.stamp_async("shop")})
            async with tappass_session(name="second") as second:
                await called(url, **{"tappass-correlation": await second.stamp_async("shop")})
            await called(url)
    sessions = [session and session.parent for session in forgetful.sessions]
    assert sessions == [first.session_id, second.session_id, None]


async def test_a_token_is_refused_where_the_server_would_run_the_call_in_another_session(plane, shop):
    with served(shop.app) as url:
        async with tappass_session(name="caller") as caller:
            token = {"tappass-correlation": await caller.stamp_async("shop")}
            begun = await posted(url, "initialize", WHO, **token)
            assert (begun.status_code, "stateless_http=True" in begun.text) == (403, True)
            assert "mcp-session-id" not in begun.headers
            begun = await posted(url, "initialize", WHO)
            kept = {"mcp-session-id": begun.headers["mcp-session-id"]}
            assert (await called(url, **kept, **token)).status_code == 403
            assert not shop.sessions
            assert (await called(url, **kept)).json()["result"]["content"][0]["text"] == "paid"
    assert shop.sessions == [None]
