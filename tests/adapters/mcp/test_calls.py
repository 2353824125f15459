"""A guarded client: each request is decided before it is sent, and settled with what came back."""

from __future__ import annotations

import base64

import anyio
import pytest

from tappass import (
    ApprovalRequired,
    PolicyBlockError,
    RedactionApplied,
    TapPassConnectionError,
    TrustTierDenied,
    current_session,
    guard_mcp_client,
    resume,
    tappass_session,
)
from tests.adapters.mcp.bank import MODERN, PLAIN, answer, text
from tests.contract.test_approvals import person

pytestmark = pytest.mark.anyio

RULES = """
    version: 1
    rules:
      - {id: inside, tool: pay, mcp_server: bank, when: '!args.to.endsWith("@acme.com")', effect: block}
      - {id: mask, tool: look, effect: redact, fields: [result, arguments], kinds: [EMAIL]}
      - {id: vault, tool: resources/read, when: 'args.uri.startsWith("bank://vault")', effect: block}
      - {id: mask-files, tool: resources/read, when: '!args.uri.endsWith(".png")', effect: redact, fields: [result]}
      - {id: prompts, tool: prompts/get, when: 'args.name == "wire"', effect: block}
      - {id: mask-prompts, tool: prompts/get, effect: redact, fields: [result, arguments], kinds: [EMAIL]}
"""


def error_of(result) -> bool:
    return result.is_error if MODERN else result.isError


def structured(result):
    return result.structured_content if MODERN else result.structuredContent


async def test_an_allowed_call_runs_and_is_on_record(bank, way, any_plane):
    any_plane.policy(RULES)
    async with way(bank) as bare, guard_mcp_client(bare, server="bank") as client:
        assert isinstance(client, type(bare))
        result = await client.call_tool("pay", {"to": "ann@acme.com", "amount": 3})
        assert result.content[0].text == "3 paid to ann@acme.com"
        assert current_session().name == "bank"
    decided, ended = any_plane.events(type="call.decided"), any_plane.events(type="call.ended")
    assert [(e.name, e.server, e.outcome) for e in decided] == [("pay", "bank", "allow")]
    assert [e.status for e in ended] == ["completed"]
    assert [e.status for e in any_plane.events(type="session.closed")] == ["completed"]


async def test_a_blocked_call_never_reaches_the_server(bank, way, any_plane):
    any_plane.policy(RULES)
    async with way(bank) as bare:
        with pytest.raises(PolicyBlockError) as caught:
            async with guard_mcp_client(bare, server="bank") as client:
                await client.call_tool("pay", {"to": "eve@evil.example", "amount": 3})
    assert caught.value.blocked_by == "inside"
    assert bank.calls() == []


async def test_a_refusal_that_the_caller_swallows_comes_back_at_the_end(bank, way, plane):
    plane.policy(RULES)
    async with way(bank) as bare:
        with pytest.raises(PolicyBlockError, match="inside"):
            async with guard_mcp_client(bare, server="bank") as client:
                for _ in range(3):
                    with pytest.raises(PolicyBlockError):
                        await client.call_tool("pay", {"to": "eve@evil.example", "amount": 3})
    assert bank.calls() == []
    assert [e.status for e in plane.events(type="session.closed")] == ["failed"]


async def test_a_told_refusal_is_an_answer_that_the_model_can_read(bank, way, plane):
    plane.policy(RULES)
    async with way(bank) as bare, guard_mcp_client(bare, server="bank", on_block="tell") as client:
        result = await client.call_tool("pay", {"to": "eve@evil.example", "amount": 3})
        assert error_of(result)
        assert "inside" in result.content[0].text
        assert not error_of(await client.call_tool("pay", {"to": "ann@acme.com", "amount": 3}))
    assert len(bank.calls()) == 1
    assert [e.status for e in plane.events(type="session.closed")] == ["completed"]


async def test_a_refusal_that_could_not_be_told_comes_back_at_the_end(bank, way, plane):
    plane.policy(RULES)
    async with way(bank) as bare:
        with pytest.raises(PolicyBlockError, match="prompts"):
            async with guard_mcp_client(bare, server="bank", on_block="tell") as client:
                with pytest.raises(PolicyBlockError):
                    await client.get_prompt("wire")
    assert bank.calls("prompts/get") == []


async def test_results_are_redacted_in_text_and_in_structure(bank, way, any_plane):
    any_plane.policy(RULES)
    async with way(bank) as bare, guard_mcp_client(bare, server="bank") as client:
        result = await client.call_tool("look", {"at": "bob@acme.com"})
    assert result.content[0].text == "[EMAIL] owes 3"
    assert structured(result) == {"who": "[EMAIL]"}
    assert bank.calls()[0]["arguments"] == {"at": "[EMAIL]"}


async def test_arguments_are_decided_on_exactly_as_they_are_sent(bank, way, plane):
    plane.policy("""
        version: 1
        rules:
          - {id: as-sent, tool: look, effect: block,
             when: 'args == {"n": null, "deep": {"x": null, "y": [1, 2.5, "é"]}}'}
    """)
    given = {"n": None, "deep": {"x": None, "y": [1, 2.5, "é"]}}
    async with way(bank) as bare, guard_mcp_client(bare, server="bank", on_block="tell") as client:
        assert "as-sent" in (await client.call_tool("look", given)).content[0].text
        await client.call_tool("look", given | {"n": 1})
        await client.call_tool("look")
    assert [call["arguments"] for call in bank.calls()] == [given | {"n": 1}, None]


async def test_a_redaction_can_be_asked_for_as_an_error(bank, way, plane):
    plane.policy(RULES)
    async with way(bank) as bare:
        with pytest.raises(RedactionApplied) as caught:
            async with guard_mcp_client(bare, server="bank", raise_on_redaction=True) as client:
                await client.call_tool("look", {})
    assert caught.value.redacted_content.content[0].text == "[EMAIL] owes 3"


async def test_what_cannot_be_rebuilt_is_withheld(bank, way, plane):
    plane.policy(RULES)
    picture = {"type": "image", "mimeType": "image/png", "data": base64.b64encode(b"\x89PNG\0").decode()}
    bank.answers["look"] = lambda _given: answer(text("see"), picture)
    async with way(bank) as bare:
        with pytest.raises(PolicyBlockError) as caught:
            async with guard_mcp_client(bare, server="bank") as client:
                await client.call_tool("look", {})
    assert caught.value.blocked_by == "opaque-result"
    assert caught.value.ran


async def test_text_beside_a_picture_is_inspected_all_the_same(bank, way, plane):
    secret = "AKIA" + "IOSFODNN7" + "ABCDEFG"
    picture = {"type": "image", "mimeType": "image/png", "data": base64.b64encode(b"\x89PNG\0").decode()}
    bank.answers["look"] = lambda _given: answer(picture, text(f"key {secret}"))
    async with way(bank) as bare, guard_mcp_client(bare, server="bank") as client:
        result = await client.call_tool("look", {})
    assert result.content[0].data == picture["data"]
    assert secret not in result.content[1].text


async def test_error_answers_are_inspected_too(bank, way, plane):
    plane.policy("version: 1\nrules:\n  - {id: m, tool: fails, effect: redact, fields: [result], kinds: [EMAIL]}")
    bank.answers["fails"] = lambda _given: answer(text("bob@acme.com is unknown"), isError=True)
    async with way(bank) as bare, guard_mcp_client(bare, server="bank") as client:
        result = await client.call_tool("fails", {})
    assert error_of(result)
    assert result.content[0].text == "[EMAIL] is unknown"


async def test_resources_are_decided_on_and_redacted(bank, way, any_plane):
    any_plane.policy(RULES)
    async with way(bank) as bare, guard_mcp_client(bare, server="bank", on_block="tell") as client:
        assert (await client.read_resource(_uri("bank://file/7"))).contents[0].text == "bank://file/7: [EMAIL]"
        assert (await client.read_resource(_uri("bank://file/7.png"))).contents[0].blob == "iVBORw0KGgo="
    async with way(bank) as bare:
        with pytest.raises(PolicyBlockError, match="vault"):
            async with guard_mcp_client(bare, server="bank") as client:
                await client.read_resource(_uri("bank://vault/1"))
    assert [params["uri"] for params in bank.calls("resources/read")] == ["bank://file/7", "bank://file/7.png"]


async def test_prompts_are_decided_on_with_their_arguments_and_redacted(bank, way, any_plane):
    any_plane.policy(RULES)
    async with way(bank) as bare:
        async with guard_mcp_client(bare, server="bank") as client:
            result = await client.get_prompt("letter", {"to": "ann@acme.com"})
            assert result.messages[0].content.text == "Write to [EMAIL]"
        with pytest.raises(PolicyBlockError, match="prompts"):
            async with guard_mcp_client(bare, server="bank") as client:
                await client.get_prompt("wire", {"to": "ann@acme.com"})
    assert bank.calls("prompts/get") == [{"name": "letter", "arguments": {"to": "[EMAIL]"}}]


async def test_completions_are_decided_on(bank, way, plane):
    import mcp.types as types

    plane.policy("version: 1\nrules:\n  - {id: quiet, tool: completion/complete, effect: block}")
    reference = types.PromptReference(type="ref/prompt", name="letter")
    async with way(bank) as bare:
        with pytest.raises(PolicyBlockError, match="quiet"):
            async with guard_mcp_client(bare, server="bank") as client:
                await client.complete(reference, {"name": "to", "value": "b"})
    assert bank.calls("completion/complete") == []


ASK = """
    version: 1
    rules:
      - {id: big, tool: pay, when: args.amount > 1000, effect: require_approval, expires_in: 1h}
      - {id: deletes, tool: look, effect: require_tier, tier: privileged}
"""
BIG = {"to": "ann@acme.com", "amount": 5000}


@pytest.mark.parametrize("around", ["guard", "resume"])
@pytest.mark.parametrize("on_block", ["raise", "tell"])
async def test_a_held_call_runs_once_when_people_have_agreed(bank, way, any_plane, around, on_block):
    any_plane.policy(ASK)
    async with way(bank) as bare:
        with pytest.raises(ApprovalRequired) as caught:
            async with guard_mcp_client(bare, server="bank", on_block=on_block) as client:
                await client.call_tool("pay", BIG)
        assert bank.calls() == []
        voting = any_plane.engine.voting
        token = caught.value.resume_token
        voting.approve(voting.approval_of(token), person(any_plane, "eva"), "as agreed")
        if around == "resume":
            async with resume(token), guard_mcp_client(bare, server="bank") as client:
                await client.call_tool("pay", BIG)
        else:
            async with guard_mcp_client(bare, server="bank") as client, resume(token):
                await client.call_tool("pay", BIG)
        assert len(bank.calls()) == 1
        with pytest.raises(Exception, match=r"used|redeemed|held|approv"):
            async with resume(token), guard_mcp_client(bare, server="bank") as client:
                await client.call_tool("pay", BIG)
    assert len(bank.calls()) == 1


async def test_a_tier_that_is_too_low_is_denied(bank, way, any_plane):
    any_plane.policy(ASK)
    async with way(bank) as bare:
        with pytest.raises(TrustTierDenied):
            async with guard_mcp_client(bare, server="bank") as client:
                await client.call_tool("look", {})
    assert bank.calls() == []


async def test_nothing_is_sent_when_the_plane_cannot_be_reached(bank, way, plane, monkeypatch):
    async def down(request):
        raise TapPassConnectionError("the plane is gone")

    async with way(bank) as bare:
        with pytest.raises(TapPassConnectionError):
            async with guard_mcp_client(bare, server="bank", on_block="tell") as client:
                monkeypatch.setattr(plane.plane.aio, "decide", down)
                for call in (
                    lambda: client.call_tool("pay", BIG),
                    lambda: client.read_resource(_uri("bank://file/7")),
                    lambda: client.get_prompt("letter"),
                ):
                    with pytest.raises(TapPassConnectionError):
                        await call()
    assert bank.asked == []


async def test_a_guard_is_not_entered_when_the_plane_cannot_be_reached(bank, way, tmp_path):
    async with way(bank) as bare:
        with pytest.raises(TapPassConnectionError):
            async with guard_mcp_client(bare, server="bank", url="http://127.0.0.1:9", api_key="tp_x"):
                raise AssertionError("it was entered")


async def test_parallel_calls_are_each_decided_and_settled(bank, way, plane):
    plane.policy(RULES)
    results: dict[int, str] = {}
    async with way(bank) as bare, guard_mcp_client(bare, server="bank", on_block="tell") as client:

        async def call(n: int) -> None:
            to = "ann@acme.com" if n % 2 else "eve@evil.example"
            results[n] = (await client.call_tool("pay", {"to": to, "amount": n})).content[0].text

        async with anyio.create_task_group() as group:
            for n in range(24):
                group.start_soon(call, n)
    assert all(results[n] == f"{n} paid to ann@acme.com" for n in range(1, 24, 2))
    assert all("inside" in results[n] for n in range(0, 24, 2))
    assert len(bank.calls()) == 12
    assert len(plane.events(type="call.ended")) == 12
    assert bank.lists == 1


async def test_a_cancelled_call_is_settled_as_cancelled(bank, way, plane):
    bank.tools["hang"] = dict(PLAIN)
    started = anyio.Event()

    async def hang():
        started.set()
        await anyio.sleep_forever()

    bank.answers["hang"] = lambda _given: hang()
    async with (
        way(bank) as bare,
        guard_mcp_client(bare, server="bank") as client,
        anyio.create_task_group() as group,
    ):
        group.start_soon(client.call_tool, "hang", {})
        await started.wait()
        group.cancel_scope.cancel()
    assert [e.status for e in plane.events(type="call.ended")] == ["cancelled"]


async def test_large_results_come_through_whole(bank, way, plane):
    plane.policy(RULES)
    words = "bob@acme.com " + "x" * 400_000
    bank.answers["look"] = lambda _given: answer(text(words))
    async with way(bank) as bare, guard_mcp_client(bare, server="bank") as client:
        result = await client.call_tool("look", {})
    assert result.content[0].text == words.replace("bob@acme.com", "[EMAIL]")


async def test_calls_belong_to_the_session_that_they_are_made_in(bank, way, plane):
    async with tappass_session(name="outer") as outer, way(bank) as bare:
        async with guard_mcp_client(bare, server="bank") as client:
            own = current_session()
            assert own.parent == outer.session_id
            await client.call_tool("look", {})
            async with tappass_session(name="inner") as inner:
                await client.call_tool("look", {})
        assert current_session() is outer
    ids = [e.session_id for e in plane.events(type="call.decided")]
    assert ids == [own.session_id, inner.session_id]


async def test_the_server_is_told_where_its_calls_belong(bank, way, any_plane):
    async with way(bank) as bare, guard_mcp_client(bare, server="bank", audience="bank.example") as client:
        await client.call_tool("look", {})
        await client.session.call_tool("look", {}) if hasattr(bare, "session") else None
        own = current_session()
        token = bank.calls()[0]["meta"]["tappass-correlation"]
        joined = await own.plane.aio.join(token, "bank.example")
        assert joined.parent == own.session_id
    async with way(bank) as bare, guard_mcp_client(bare, server="bank", correlate=False) as client:
        await client.call_tool("look", {})
    assert "tappass-correlation" not in (bank.calls()[-1]["meta"] or {})


async def test_progress_reaches_the_users_callback(bank, way, plane):
    if not MODERN:
        pytest.skip("the lowlevel server of mcp 1 reports it elsewhere")
    from mcp.server.lowlevel import Server

    seen: list[float] = []
    entry = bank.server.get_request_handler("tools/call")

    async def progressing(ctx, params):
        await ctx.session.report_progress(0.5, 1.0)
        return await entry.handler(ctx, params)

    assert isinstance(bank.server, Server)
    bank.server.add_request_handler("tools/call", entry.params_type, progressing)

    async def note(progress, total, message):
        seen.append(progress)

    async with way(bank) as bare, guard_mcp_client(bare, server="bank") as client:
        await client.call_tool("look", {}, progress_callback=note)
        with anyio.move_on_after(2):
            while not seen:
                await anyio.lowlevel.checkpoint()
    assert seen == [0.5]


def _uri(text: str):
    if MODERN:
        return text
    from pydantic import AnyUrl

    return AnyUrl(text)
