"""The middleware in a FastMCP server, of either major version: the same promises as for the official one."""

from __future__ import annotations

import contextlib
from typing import Annotated

import httpx
import mcp.types as types
import pytest
from fastmcp import Client, Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.tools.base import ToolResult
from pydantic import Field

from tappass import TapPassMCPMiddleware, current_session, guard_mcp_client, tappass_session, tool
from tests.adapters.mcp.bank import MODERN, served
from tests.contract.test_approvals import person

# asyncio alone: FastMCP's own client and server need it.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

RULES = """
    version: 1
    rules:
      - {id: inside, tool: pay, mcp_server: shop, when: '!args.to.endsWith("@acme.com")', effect: block}
      - {id: forced, tool: wipe, when: 'args.force == true', effect: block}
      - {id: big, tool: pay, when: 'args.amount > 1000', effect: require_approval, expires_in: 1h}
      - {id: mask, tool: look, effect: redact, fields: [result, arguments], kinds: [EMAIL]}
      - {id: vault, tool: resources/read, when: 'args.uri.startsWith("shop://vault")', effect: block}
      - {id: mask-files, tool: resources/read, effect: redact, fields: [result], kinds: [EMAIL]}
      - {id: wire, tool: prompts/get, when: 'args.name == "letter" && args.arguments.to == "eve"', effect: block}
      - {id: mask-prompts, tool: prompts/get, effect: redact, fields: [result], kinds: [EMAIL]}
"""


class Shop:
    def __init__(self, **options) -> None:
        self.ran: list[tuple] = []
        self.sessions: list = []
        self.server = FastMCP("shop", middleware=[TapPassMCPMiddleware(server="shop", **options)])

        @self.server.tool
        async def pay(to: str, amount: float, fee: float = 1) -> str:
            """Pay somebody."""
            self.ran.append(("pay", to, amount, fee))
            self.sessions.append(current_session())
            return f"{amount} paid to {to}"

        @self.server.tool
        def look(at: str = "") -> dict[str, str]:
            self.ran.append(("look", at))
            return {"who": "bob@acme.com"}

        @self.server.tool
        def raw() -> ToolResult:
            made = types.CallToolResult.model_validate({"content": [{"type": "text", "text": "bob@acme.com"}]})
            convert = getattr(ToolResult, "from_mcp_result", None)
            return convert(made) if convert is not None else ToolResult(content=made.content)

        @self.server.tool
        def wipe(force: bool) -> str:
            self.ran.append(("wipe", force))
            return "wiped"

        @self.server.tool
        def fails() -> str:
            raise ToolError("no such account")

        @self.server.resource("shop://{kind}/{name}")
        def thing(kind: str, name: str) -> str:
            self.ran.append(("thing", kind, name))
            return f"{name} of bob@acme.com"

        @self.server.prompt
        def letter(to: str) -> str:
            self.ran.append(("letter", to))
            return f"Write to {to} and bob@acme.com"


@pytest.fixture
def shop() -> Shop:
    return Shop()


async def called(client, name, given, **options):
    return await client.call_tool(name, given, raise_on_error=False, **options)


async def test_an_allowed_call_runs_and_is_on_record(shop, any_plane):
    any_plane.policy(RULES)
    async with Client(shop.server) as client:
        result = await called(client, "pay", {"to": "ann@acme.com", "amount": 3})
        assert result.content[0].text in ("3.0 paid to ann@acme.com", "3 paid to ann@acme.com")
    assert [(e.name, e.server, e.outcome) for e in any_plane.events(type="call.decided")] == [("pay", "shop", "allow")]
    assert [e.status for e in any_plane.events(type="call.ended")] == ["completed"]
    assert len(any_plane.events(type="session.opened")) == len(any_plane.events(type="session.closed")) == 1


async def test_a_blocked_call_does_not_run_and_the_model_can_read_why(shop, any_plane):
    any_plane.policy(RULES)
    async with Client(shop.server) as client:
        result = await called(client, "pay", {"to": "eve@evil.example", "amount": 3})
    assert result.is_error
    assert "inside" in result.content[0].text
    assert shop.ran == []


@pytest.mark.parametrize("swallowed", [True, False])
async def test_a_refusal_inside_a_tool_is_the_answer_whatever_the_library_makes_of_it(swallowed, shop, any_plane):
    any_plane.policy("version: 1\nrules:\n  - {id: inner, tool: send_within, effect: block}\n")
    send = tool(name="send_within")(lambda to: shop.ran.append(to))

    @shop.server.tool
    def outer() -> str:
        try:
            send("eve@evil.example")
        except Exception as error:
            if swallowed:
                return f"went on past {type(error).__name__}"
            raise
        return "sent"

    async with Client(shop.server) as client:
        result = await called(client, "outer", {})
    assert result.is_error
    assert result.content[0].text.startswith("Not done: blocked by rule `inner`")
    assert shop.ran == []
    assert [e.status for e in any_plane.events(type="session.closed")] == ["failed"]


async def test_what_a_tool_asks_of_its_own_server_in_vain_is_the_answer_to_its_own_call(shop, plane):
    plane.policy(RULES)

    @shop.server.tool
    async def order(to: str, amount: float, ctx: Context) -> str:
        await ctx.fastmcp.call_tool("pay", {"to": to, "amount": amount})
        return "ordered"

    @shop.server.tool
    async def careless(to: str, ctx: Context) -> str:
        with contextlib.suppress(Exception):
            await ctx.fastmcp.call_tool("pay", {"to": to, "amount": 1})
        return "ordered"

    @shop.server.tool
    async def prepared(to: str, ctx: Context) -> str:
        async with tappass_session(name="an attempt"):
            with contextlib.suppress(Exception):
                await ctx.fastmcp.call_tool("pay", {"to": to, "amount": 1})
        return "not ordered"

    inner = FastMCP("inner", middleware=[TapPassMCPMiddleware(server="inner")])
    inner.mount(shop.server)
    outer = FastMCP("outer", middleware=[TapPassMCPMiddleware(server="outer")])
    outer.mount(inner)
    for server in (shop.server, outer):
        async with Client(server) as client:
            for name, given in (("order", {"to": "eve", "amount": 1}), ("careless", {"to": "eve"})):
                result = await called(client, name, given)
                assert result.is_error
                assert "inside" in result.content[0].text
            assert not (await called(client, "prepared", {"to": "eve"})).is_error
            held = await client.session.call_tool("order", {"to": "ann@acme.com", "amount": 5000})
            assert (held.meta["tappass"]["status"], len(shop.ran)) == (428, 0)
            voting = plane.engine.voting
            voting.approve(voting.approval_of(held.meta["tappass-resume"]), person(plane, "eva"), "as agreed")
            assert not (await called(client, "order", {"to": "ann@acme.com", "amount": 5000})).is_error
            assert [name for name, *_ in shop.ran] == ["pay"]
            shop.ran.clear()


async def test_a_refusal_can_be_a_protocol_error(plane):
    plane.policy(RULES)
    shop = Shop(refusals="error")
    async with Client(shop.server) as client:
        with pytest.raises(Exception, match="inside"):
            await client.call_tool("pay", {"to": "eve@evil.example", "amount": 3})
    assert shop.ran == []


async def test_each_version_of_a_tool_is_decided_on_as_the_one_that_it_is(any_plane, shop):
    any_plane.policy(RULES.replace("wipe", "erase"))

    @shop.server.tool(name="erase", version="1.0")
    def first(disk: str = "all", force: bool = True) -> str:
        shop.ran.append(("erase 1", disk, force))
        return "wiped"

    @shop.server.tool(name="erase", version="2.0")
    def second(disk: str = "none", force: bool = False, slow: bool = True) -> str:
        shop.ran.append(("erase 2", disk, force))
        return "wiped"

    @shop.server.tool(version="1.0")
    async def through(ctx: Context) -> str:
        await ctx.fastmcp.call_tool("erase", {"slow": False})
        return "done"

    async with Client(shop.server) as client:
        refused = await client.call_tool("erase", {"disk": "a"}, version="1.0", raise_on_error=False)
        assert (refused.is_error, "forced" in refused.content[0].text) == (True, True)
        assert not (await client.call_tool("erase", {"force": False}, version="1.0", raise_on_error=False)).is_error
        assert not (await client.call_tool("erase", {"disk": "b"}, raise_on_error=False)).is_error
        if MODERN:  # before, what a tool calls is taken for a call of the request's version
            await client.call_tool("through", {}, version="1.0")
            assert shop.ran.pop() == ("erase 2", "none", False)
        else:  # since, no other than text reaches a middleware
            with pytest.raises(ToolError, match="the version"):
                await client.call_tool("erase", {}, meta={"fastmcp": {"version": {"newest": True}}})
    assert shop.ran == [("erase 1", "all", False), ("erase 2", "b", False)]


async def test_results_are_redacted_in_text_and_in_structure(shop, any_plane):
    any_plane.policy(RULES)
    async with Client(shop.server) as client:
        result = await called(client, "look", {"at": "ann@acme.com"})
    assert "bob@acme.com" not in repr(result)
    assert result.structured_content == {"who": "[EMAIL]"}
    assert shop.ran == [("look", "[EMAIL]")]


async def test_a_result_that_remembers_another_is_redacted_all_the_same(shop, plane):
    plane.policy(RULES.replace("tool: look", "tool: raw"))
    async with Client(shop.server) as client:
        result = await called(client, "raw", {})
    assert result.content[0].text == "[EMAIL]"
    assert "bob@acme.com" not in repr(result)


@pytest.mark.parametrize("given", [{"force": "true"}, {"force": 1}, {"force": "yes"}, {}])
async def test_what_the_tool_would_read_otherwise_than_a_rule_does_is_refused(shop, plane, given):
    plane.policy(RULES)
    async with Client(shop.server) as client:
        assert (await called(client, "wipe", given)).is_error
    assert shop.ran == []


async def test_json_in_an_optional_text_is_text_to_rule_and_tool(shop, plane):
    plane.policy("version: 1\nrules: [{id: r, tool: note, when: 'args.text == \"[1]\"', effect: block}]")

    @shop.server.tool
    def note(text: str | None = None) -> str:
        shop.ran.append(text)
        return "noted"

    async with Client(shop.server) as client:
        assert not (await called(client, "note", {"text": '{"a": 1}'})).is_error
        assert (await called(client, "note", {"text": "[1]"})).is_error
    assert shop.ran == ['{"a": 1}']


async def test_a_default_that_does_not_fit_its_own_schema_is_read_by_rules_and_left_to_the_tool(shop, plane):
    plane.policy(
        "version: 1\nrules: [{id: all-kinds, tool: find, when: args.kind == null && args.most > 9, effect: block}]"
    )

    @shop.server.tool
    def find(
        text: str,
        kind: str = None,  # noqa: RUF013 - as many servers have it
        most: Annotated[int, Field(gt=0)] = -1,
        deep: bool = False,
    ) -> str:
        shop.ran.append((text, kind, most, deep))
        return "found"

    async with Client(shop.server) as client:
        for given in ({"text": "a"}, {"text": "a", "kind": "b", "most": 10}):
            assert not (await called(client, "find", given)).is_error
        for given in ({"text": "a", "most": 10}, {"text": "a", "kind": None}, {"text": "a", "most": -1}):
            assert (await called(client, "find", given)).is_error
    assert shop.ran == [("a", None, -1, False), ("a", "b", 10, False)]


async def test_resources_are_decided_on_and_redacted(shop, any_plane):
    any_plane.policy(RULES)
    async with Client(shop.server) as client:
        assert (await client.read_resource("shop://file/7"))[0].text == "7 of [EMAIL]"
        with pytest.raises(Exception, match="vault"):
            await client.read_resource("shop://vault/7")
    assert shop.ran == [("thing", "file", "7")]


async def test_prompts_are_decided_on_with_their_arguments_and_redacted(shop, any_plane):
    any_plane.policy(RULES)
    async with Client(shop.server) as client:
        said = (await client.get_prompt("letter", {"to": "ann"})).messages[0].content.text
        assert said == "Write to ann and [EMAIL]"
        with pytest.raises(Exception, match="wire"):
            await client.get_prompt("letter", {"to": "eve"})
    assert shop.ran == [("letter", "ann")]


async def test_errors_and_lists_are_as_ever(shop, plane):
    async with Client(shop.server) as client:
        assert "no such account" in (await called(client, "fails", {})).content[0].text
        assert (await called(client, "nothing", {})).is_error
        assert {t.name for t in await client.list_tools()} == {"pay", "look", "raw", "wipe", "fails"}


async def test_nothing_runs_when_the_plane_cannot_be_reached():
    shop = Shop(url="http://127.0.0.1:9", api_key="tp_x")
    async with Client(shop.server) as client:
        for call in (
            lambda: client.call_tool("pay", {"to": "ann@acme.com", "amount": 3}),
            lambda: client.read_resource("shop://file/7"),
            lambda: client.get_prompt("letter", {"to": "ann"}),
        ):
            with pytest.raises(Exception, match=r"(?i)reach|connect|plane"):
                await call()
    assert shop.ran == []


async def test_a_guarded_clients_calls_and_the_servers_are_one_tree(shop, any_plane):
    async with (
        Client(shop.server) as bare,
        tappass_session(name="order"),
        guard_mcp_client(bare.session, server="shop") as client,
    ):
        own = current_session()
        await client.call_tool("pay", {"to": "ann@acme.com", "amount": 3})
        await client.call_tool("pay", {"to": "ann@acme.com", "amount": 4})
    assert {session.parent for session in shop.sessions} == {own.session_id}
    assert len({session.session_id for session in shop.sessions}) == 1


async def test_a_token_that_does_not_hold_is_refused(shop, plane):
    async with tappass_session(name="caller") as caller:
        foreign = await caller.stamp_async("bank")
        async with Client(shop.server) as client:
            for token in (foreign, "nonsense"):
                meta = {"tappass-correlation": token}
                result = await called(client, "pay", {"to": "ann@acme.com", "amount": 3}, meta=meta)
                assert result.is_error
                assert "token" in result.content[0].text
    assert shop.ran == []


async def test_over_http_a_token_counts_and_one_that_comes_twice_is_refused(shop, plane):
    async with tappass_session(name="caller") as caller:
        token = [("tappass-correlation", await caller.stamp_async("shop"))]
        with served(shop.server.http_app(stateless_http=True, json_response=True)) as url:
            async with httpx.AsyncClient(trust_env=False) as http:
                answers = [await posted(http, url, headers) for headers in (token, token * 2, [])]
    assert ["more than one" in answer.text for answer in answers] == [False, True, False]
    assert [session.parent for session in shop.sessions] == [caller.session_id, ""]


async def posted(http, url, headers):
    """Call a tool by hand; return the response."""
    asked = [("accept", "application/json, text/event-stream"), ("mcp-protocol-version", "2025-06-18"), *headers]
    params = {"name": "pay", "arguments": {"to": "ann@acme.com", "amount": 3}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return await http.post(f"{url}/mcp", json=message, headers=asked)


async def test_a_held_call_names_where_people_decide_and_runs_once_they_have(shop, plane):
    plane.policy(RULES)
    big = {"to": "ann@acme.com", "amount": 5000}
    async with Client(shop.server) as client:
        result = await called(client, "pay", big)
        assert result.is_error
        assert "http://" in result.content[0].text
        (held,) = plane.engine.voting.list()
        plane.engine.voting.approve(held.approval_id, person(plane, "eva"), "as agreed")
        assert not (await called(client, "pay", big)).is_error
        assert (await called(client, "pay", big)).is_error
    assert len(shop.ran) == 1


async def test_a_client_that_can_open_links_is_asked_to(shop, plane):
    plane.policy(RULES)

    async def show(*_asked):
        return {}

    async with Client(shop.server, elicitation_handler=show) as client:
        with pytest.raises(Exception, match="People decide at") as caught:
            await client.session.call_tool("pay", {"to": "ann@acme.com", "amount": 5000})
    assert caught.value.error.code == -32042
    assert caught.value.error.data["elicitations"][0]["url"].startswith("http")
    assert shop.ran == []
