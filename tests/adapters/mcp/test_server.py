"""A server's middleware: each request is decided before anything runs, in its caller's session or in its own."""

from __future__ import annotations

import base64
import contextlib
from typing import Annotated

import anyio
import mcp
import mcp.types as types
import pytest
from pydantic import Field

from tappass import (
    TapPassConfigError,
    TapPassConnectionError,
    TapPassMCPMiddleware,
    current_session,
    guard_mcp_client,
    tappass_session,
)
from tappass.ext import current_session as here
from tappass.testing import memory_plane
from tests.adapters.mcp.bank import MODERN, served
from tests.contract.test_approvals import person

if not MODERN:
    pytest.skip("mcp 1 has no middleware", allow_module_level=True)

from mcp.server import MCPServer
from mcp.shared.exceptions import MCPError

pytestmark = pytest.mark.anyio

RULES = """
    version: 1
    rules:
      - {id: inside, tool: pay, mcp_server: shop, when: '!args.to.endsWith("@acme.com")', effect: block}
      - {id: forced, tool: wipe, when: 'args.force == true', effect: block}
      - {id: fees, tool: pay, when: 'has(args.fee) && args.fee > 5', effect: block}
      - {id: big, tool: pay, when: 'args.amount > 1000', effect: require_approval, expires_in: 1h}
      - {id: mask, tool: look, effect: redact, fields: [result, arguments], kinds: [EMAIL]}
      - {id: vault, tool: resources/read, when: 'args.uri.startsWith("shop://vault")', effect: block}
      - {id: mask-files, tool: resources/read, effect: redact, fields: [result], kinds: [EMAIL]}
      - {id: wire, tool: prompts/get, when: 'args.name == "letter" && args.arguments.to == "eve"', effect: block}
      - {id: mask-prompts, tool: prompts/get, effect: redact, fields: [result], kinds: [EMAIL]}
"""


class Shop:
    """A server under the middleware, and what ran on it."""

    def __init__(self, **options) -> None:
        self.ran: list[tuple] = []
        self.sessions: list = []
        self.server = MCPServer("shop", middleware=[TapPassMCPMiddleware(server="shop", **options)])

        @self.server.tool()
        async def pay(to: str, amount: float, fee: float = 1) -> str:
            """Pay somebody."""
            self.ran.append(("pay", to, amount, fee))
            self.sessions.append(here())
            return f"{amount} paid to {to}"

        @self.server.tool()
        def look(at: str = "") -> dict[str, str]:
            """Look somebody up."""
            self.ran.append(("look", at))
            return {"who": "bob@acme.com"}

        @self.server.tool()
        def wipe(force: bool, disks: list[str] | str | None = None) -> str:
            self.ran.append(("wipe", force, disks))
            return "wiped"

        @self.server.tool()
        def fails() -> str:
            raise ValueError("no such account")

        @self.server.resource("shop://{kind}/{name}")
        def thing(kind: str, name: str) -> str:
            self.ran.append(("thing", kind, name))
            return f"{name} of bob@acme.com"

        @self.server.prompt()
        def letter(to: str) -> str:
            self.ran.append(("letter", to))
            return f"Write to {to} and bob@acme.com"


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture(params=["2026", "legacy"])
def connect(request):
    return lambda shop, **options: mcp.Client(
        shop.server, mode="auto" if request.param == "2026" else "legacy", **options
    )


async def test_an_allowed_call_runs_and_is_on_record(shop, connect, any_plane):
    any_plane.policy(RULES)
    async with connect(shop) as client:
        result = await client.call_tool("pay", {"to": "ann@acme.com", "amount": 3})
        assert result.content[0].text == "3.0 paid to ann@acme.com"
    assert [(e.name, e.server, e.outcome) for e in any_plane.events(type="call.decided")] == [("pay", "shop", "allow")]
    assert [e.status for e in any_plane.events(type="call.ended")] == ["completed"]
    opened, closed = any_plane.events(type="session.opened"), any_plane.events(type="session.closed")
    assert len(opened) == len(closed) == 1
    assert shop.sessions[0].session_id == opened[0].session_id
    assert here() is None


async def test_a_blocked_call_does_not_run_and_the_model_can_read_why(shop, connect, any_plane):
    any_plane.policy(RULES)
    async with connect(shop) as client:
        result = await client.call_tool("pay", {"to": "eve@evil.example", "amount": 3})
    assert result.is_error
    assert "inside" in result.content[0].text
    assert result.meta["tappass"]["blocked_by"] == "inside"
    assert result.meta["tappass"]["session_id"].startswith("ses_")
    assert shop.ran == []


async def test_a_refusal_can_be_a_protocol_error(connect, plane):
    plane.policy(RULES)
    shop = Shop(refusals="error")
    async with connect(shop) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("pay", {"to": "eve@evil.example", "amount": 3})
    assert caught.value.error.code == -32050
    assert caught.value.error.data["tappass"]["decision"] == "policy_block"
    assert shop.ran == []


async def test_results_are_redacted_in_text_and_in_structure(shop, connect, any_plane):
    any_plane.policy(RULES)
    async with connect(shop) as client:
        result = await client.call_tool("look", {"at": "ann@acme.com"})
    assert "bob@acme.com" not in result.model_dump_json()
    assert result.structured_content == {"who": "[EMAIL]"}
    assert shop.ran == [("look", "[EMAIL]")]


async def test_rules_read_what_the_tool_gets(shop, connect, plane):
    plane.policy(RULES.replace("args.fee > 5", "args.fee < 5"))
    async with connect(shop) as client:
        # A default that is left out stands there all the same.
        result = await client.call_tool("pay", {"to": "ann@acme.com", "amount": 3})
        assert "fees" in result.content[0].text
        assert not (await client.call_tool("pay", {"to": "ann@acme.com", "amount": 3, "fee": 7})).is_error
    assert shop.ran == [("pay", "ann@acme.com", 3.0, 7.0)]


@pytest.mark.parametrize(
    "given",
    [{"force": "true"}, {"force": 1}, {"force": "yes"}, {"force": None}, {}, {"force": False, "disks": '["a"]'},
     {"force": False, "disks": "null"}, {"force": False, "disks": 7}],
)  # fmt: skip
async def test_what_the_tool_would_read_otherwise_than_a_rule_does_is_refused(shop, connect, plane, given):
    plane.policy(RULES)
    async with connect(shop) as client:
        result = await client.call_tool("wipe", given)
        assert result.is_error
        assert "not run" in result.content[0].text
    assert shop.ran == []


async def test_a_default_that_does_not_fit_its_own_schema_is_read_by_rules_and_left_to_the_tool(shop, connect, plane):
    plane.policy(
        "version: 1\nrules: [{id: all-kinds, tool: find, when: args.kind == null && args.most > 9, effect: block}]"
    )

    @shop.server.tool()
    def find(
        text: str,
        kind: str = None,  # noqa: RUF013 - as many servers have it
        most: Annotated[int, Field(gt=0)] = -1,
        deep: bool = False,
    ) -> str:
        shop.ran.append((text, kind, most, deep))
        return "found"

    async with connect(shop) as client:
        for given in ({"text": "a"}, {"text": "a", "kind": "b", "most": 10}):
            assert not (await client.call_tool("find", given)).is_error
        for given in ({"text": "a", "most": 10}, {"text": "a", "kind": None}, {"text": "a", "most": -1}):
            assert (await client.call_tool("find", given)).is_error
    assert shop.ran == [("a", None, -1, False), ("a", "b", 10, False)]


async def test_text_that_is_text_is_no_json(shop, connect, plane):
    async with connect(shop) as client:
        assert not (await client.call_tool("pay", {"to": '["ann"]', "amount": 1})).is_error
        assert not (await client.call_tool("wipe", {"force": False, "disks": "sda"})).is_error
        assert not (await client.call_tool("wipe", {"force": False, "disks": ["a"]})).is_error


async def test_json_in_an_optional_text_is_text_to_rule_and_tool(shop, connect, plane):
    plane.policy("version: 1\nrules: [{id: r, tool: note, when: 'args.text == \"true\"', effect: block}]")

    @shop.server.tool()
    def note(text: str | None = None, other: str | int | None = None) -> str:
        shop.ran.append(text)
        return "noted"

    async with connect(shop) as client:
        assert not (await client.call_tool("note", {"text": "7"})).is_error
        assert "`r`" in (await client.call_tool("note", {"text": "true"})).content[0].text
        # This server reads them as JSON, which its tool does not take; another takes them as they are.
        assert "validation error" in (await client.call_tool("note", {"text": '{"a": 1}'})).content[0].text
        for given in ({"text": "null"}, {"other": '{"a": 1}'}):
            assert "holds JSON" in (await client.call_tool("note", given)).content[0].text
    assert shop.ran == ["7"]


async def test_resources_are_decided_on_and_redacted(shop, connect, any_plane):
    any_plane.policy(RULES)
    async with connect(shop) as client:
        assert (await client.read_resource("shop://file/7")).contents[0].text == "7 of [EMAIL]"
        with pytest.raises(MCPError, match="vault"):
            await client.read_resource("shop://vault/7")
    assert shop.ran == [("thing", "file", "7")]


async def test_prompts_are_decided_on_with_their_arguments_and_redacted(shop, connect, any_plane):
    any_plane.policy(RULES)
    async with connect(shop) as client:
        said = (await client.get_prompt("letter", {"to": "ann"})).messages[0].content.text
        assert said == "Write to ann and [EMAIL]"
        with pytest.raises(MCPError, match="wire"):
            await client.get_prompt("letter", {"to": "eve"})
    assert shop.ran == [("letter", "ann")]


async def test_pictures_pass_unless_results_must_be_read(shop, connect, plane):
    picture = base64.b64encode(b"\x89PNG\0").decode()

    @shop.server.tool()
    def look_at() -> types.ImageContent:
        return types.ImageContent(type="image", data=picture, mime_type="image/png")

    async with connect(shop) as client:
        assert (await client.call_tool("look_at", {})).content[0].data == picture
        plane.policy("version: 1\nrules:\n  - {id: m, tool: look_at, effect: redact, fields: [result]}")
        result = await client.call_tool("look_at", {})
        assert result.is_error
        assert picture not in result.model_dump_json()


async def test_errors_of_the_tool_are_answered_as_ever(shop, connect, plane):
    async with connect(shop) as client:
        result = await client.call_tool("fails", {})
        assert result.is_error
        assert (await client.call_tool("nothing", {})).is_error
        with pytest.raises(MCPError):
            await client.read_resource("other://thing")
        assert [t.name for t in (await client.list_tools()).tools] == ["pay", "look", "wipe", "fails"]


async def test_a_tool_that_is_not_listed_does_not_run(shop, connect, plane):
    async with connect(shop) as client:
        result = await client.call_tool("nothing", {})
    assert "on no list" in result.content[0].text
    assert [e.blocked_by for e in plane.events(type="call.decided")] == ["tool-integrity"]


async def test_nothing_runs_when_the_plane_cannot_be_reached(connect):
    shop = Shop(url="http://127.0.0.1:9", api_key="tp_x")
    async with connect(shop) as client:
        for call in (
            lambda: client.call_tool("pay", {"to": "ann@acme.com", "amount": 3}),
            lambda: client.read_resource("shop://file/7"),
            lambda: client.get_prompt("letter", {"to": "ann"}),
        ):
            with pytest.raises(MCPError) as caught:
                await call()
            assert caught.value.error.code == -32051
        assert len((await client.list_tools()).tools) == 4
    assert shop.ran == []


async def test_a_plane_that_dies_before_the_decision_lets_nothing_run(shop, connect, plane, monkeypatch):
    async def down(request):
        raise TapPassConnectionError("the plane is gone")

    monkeypatch.setattr(plane.plane.aio, "decide", down)
    async with connect(shop) as client:
        with pytest.raises(MCPError, match="gone"):
            await client.call_tool("pay", {"to": "ann@acme.com", "amount": 3})
    assert shop.ran == []


# Correlation.


async def test_a_guarded_clients_calls_and_the_servers_are_one_tree(shop, connect, any_plane):
    async with (
        connect(shop) as bare,
        tappass_session(name="order") as order,
        guard_mcp_client(bare, server="shop") as client,
    ):
        own = current_session()
        await client.call_tool("pay", {"to": "ann@acme.com", "amount": 3})
        await client.call_tool("pay", {"to": "ann@acme.com", "amount": 4})
        await client.read_resource("shop://file/7")
    joined = {session.session_id for session in shop.sessions}
    assert len(joined) == 1
    assert {session.parent for session in shop.sessions} == {own.session_id}
    assert own.parent == order.session_id
    assert len(any_plane.events(type="session.joined")) >= 1
    # Two decisions a call: one on either side.
    assert len(any_plane.events(type="call.decided", name="pay")) == 4
    assert joined.isdisjoint(e.session_id for e in any_plane.events(type="session.closed"))


def changed(token: str) -> str:
    head, payload, signature = token.split(".")
    return f"{head}.{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


async def test_tokens_that_do_not_hold_are_refused(shop, connect, plane):
    async with tappass_session(name="caller") as caller:
        good = await caller.stamp_async("shop")
        foreign = await caller.stamp_async("bank")
    with memory_plane():
        async with tappass_session(name="elsewhere") as other:
            strange = await other.stamp_async("shop")
    async with connect(shop) as client:
        # `good` names a session that was closed.
        for token in (changed(good), foreign, strange, good, "nonsense", "", 7):
            meta = {"tappass-correlation": token}
            result = await client.call_tool("pay", {"to": "ann@acme.com", "amount": 3}, meta=meta)
            assert result.is_error, token
            assert "token" in result.content[0].text
            with pytest.raises(MCPError) as caught:
                await client.read_resource("shop://file/7", meta=meta)
            assert caught.value.error.code == -32602
    assert shop.ran == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_over_http_the_header_counts_and_the_metadata_before_it(shop, any_plane):
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    any_plane.policy(RULES)
    async with tappass_session(name="caller") as caller, tappass_session(name="other") as other:
        token, second = await caller.stamp_async("shop"), await other.stamp_async("shop")
        given = {"to": "ann@acme.com", "amount": 3}
        with served(shop.server.streamable_http_app()) as url:
            async with (
                httpx2.AsyncClient(headers={"tappass-correlation": token}) as http,
                mcp.Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
            ):
                assert not (await client.call_tool("pay", given)).is_error
                assert not (await client.call_tool("pay", given, meta={"tappass-correlation": second})).is_error
                assert (await client.call_tool("pay", {"to": "eve", "amount": 1})).is_error
            async with mcp.Client(f"{url}/mcp") as bare, guard_mcp_client(bare, server="shop") as guarded:
                await guarded.call_tool("pay", given)
    assert [session.parent for session in shop.sessions[:2]] == [caller.session_id, other.session_id]
    assert len(shop.ran) == 3


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_token_that_comes_twice_is_refused(shop, any_plane):
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    async with tappass_session(name="caller") as caller:
        twice = [("tappass-correlation", await caller.stamp_async("shop"))] * 2
        with served(shop.server.streamable_http_app()) as url:
            async with (
                httpx2.AsyncClient(headers=twice) as http,
                mcp.Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
            ):
                result = await client.call_tool("pay", {"to": "ann@acme.com", "amount": 3})
    assert (result.is_error, "more than one" in result.content[0].text) == (True, True)
    assert shop.ran == []


# Approvals.

BIG = {"to": "ann@acme.com", "amount": 5000}


def agree(plane, token: str) -> None:
    voting = plane.engine.voting
    voting.approve(voting.approval_of(token), person(plane, "eva"), "as agreed")


async def test_a_held_call_names_where_people_decide_and_runs_once_they_have(shop, connect, any_plane):
    any_plane.policy(RULES)
    async with connect(shop) as client:
        result = await client.call_tool("pay", BIG)
        assert result.is_error
        assert result.meta["tappass"]["approval_url"] in result.content[0].text
        token = result.meta["tappass-resume"]
        assert shop.ran == []
        agree(any_plane, token)
        # Another call is another matter, and so is another caller's.
        assert (await client.call_tool("pay", BIG | {"amount": 6000})).is_error
        assert not (await client.call_tool("pay", BIG)).is_error
        assert len(shop.ran) == 1
        assert (await client.call_tool("pay", BIG)).is_error
    assert len(shop.ran) == 1


async def test_a_held_call_goes_on_by_its_token_from_anywhere(connect, any_plane):
    any_plane.policy(RULES)
    first, second = Shop(), Shop()
    async with connect(first) as client:
        token = (await client.call_tool("pay", BIG)).meta["tappass-resume"]
    agree(any_plane, token)
    async with connect(second) as client:
        assert (await client.call_tool("pay", BIG | {"amount": 6000}, meta={"tappass-resume": token})).is_error
        assert not (await client.call_tool("pay", BIG, meta={"tappass-resume": token})).is_error
        assert (await client.call_tool("pay", BIG, meta={"tappass-resume": token})).is_error
    assert first.ran == []
    assert len(second.ran) == 1


async def test_a_client_that_can_open_links_is_asked_to(shop, plane):
    plane.policy(RULES)

    async def show(_context, _params):
        return types.ElicitResult(action="accept")

    async with mcp.Client(shop.server, mode="legacy", elicitation_callback=show) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("pay", BIG)
    assert caught.value.error.code == -32042
    asked = caught.value.error.data["elicitations"][0]
    assert asked["mode"] == "url"
    assert "/approvals/" in asked["url"] or asked["url"].startswith("http")
    assert shop.ran == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_client_that_can_open_links_and_is_told_from_none_goes_on_by_the_token(shop, plane):
    plane.policy(RULES)

    async def show(_context, _params):
        return types.ElicitResult(action="accept")

    with served(shop.server.streamable_http_app()) as url:
        async with mcp.Client(f"{url}/mcp", elicitation_callback=show) as client:
            with pytest.raises(MCPError) as caught:
                await client.call_tool("pay", BIG)
            token = caught.value.error.data["tappass-resume"]
            agree(plane, token)
            for _ in range(2):
                with contextlib.suppress(MCPError):
                    await client.call_tool("pay", BIG, meta={"tappass-resume": token})
    assert caught.value.error.code == -32042
    assert len(shop.ran) == 1


async def test_a_call_can_wait_for_people(connect, plane):
    plane.policy(RULES)
    shop = Shop(on_approval="wait")
    results = []
    async with connect(shop) as client, anyio.create_task_group() as group:

        async def call() -> None:
            results.append(await client.call_tool("pay", BIG))

        group.start_soon(call)
        with anyio.fail_after(20):
            while not (waiting := await anyio.to_thread.run_sync(plane.engine.voting.list)):
                await anyio.lowlevel.checkpoint()
        await anyio.to_thread.run_sync(
            plane.engine.voting.approve, waiting[0].approval_id, person(plane, "eva"), "as agreed"
        )
    assert not results[0].is_error
    assert len(shop.ran) == 1


# ASGI.


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_in_front_of_an_app_it_carries_the_session_and_decides_nothing(plane):
    plane.policy(RULES)
    shop = Shop()
    bare = MCPServer("shop")

    @bare.tool()
    async def pay(to: str, amount: float) -> str:
        shop.sessions.append(here())
        return "paid"

    async with tappass_session(name="caller") as caller:
        token = await caller.stamp_async("shop")
        with served(TapPassMCPMiddleware(bare.streamable_http_app(), server="shop")) as url:
            import httpx2
            from mcp.client.streamable_http import streamable_http_client

            async with httpx2.AsyncClient(headers={"tappass-correlation": token}) as http:
                async with mcp.Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client:
                    assert not (await client.call_tool("pay", {"to": "eve", "amount": 3})).is_error
                headers = {"tappass-correlation": changed(token)}
                answer = await http.post(f"{url}/mcp", headers=headers, json={})
                assert (answer.status_code, "signature" in answer.text) == (403, True)
    assert [session.parent for session in shop.sessions] == [caller.session_id]


def test_options_are_checked():
    with pytest.raises(TapPassConfigError, match="server="):
        TapPassMCPMiddleware()
    with pytest.raises(TapPassConfigError, match="refusals"):
        TapPassMCPMiddleware(server="shop", refusals="perhaps")
    assert "tp_secret" not in repr(TapPassMCPMiddleware(server="shop", api_key="tp_secret").wanted)
