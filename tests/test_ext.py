"""The surface adapters are written on: units that bring refusals back, tools run between two hooks."""

from __future__ import annotations

import gc

import anyio
import pytest

from tappass import PolicyBlockError, current_session, tool
from tappass.ext import Interception, unit

POLICY = """
    version: 1
    rules:
      - {id: inside, tool: send_hook, when: '!args.to.endsWith("@acme.com")', effect: block}
      - {id: mask, tool: look_hook, effect: redact, fields: [result, arguments], kinds: [EMAIL]}
"""


def test_a_tool_between_two_hooks_is_decided_before_and_settled_after(tappass_plane, audit_events):
    tappass_plane.policy(POLICY)
    call = Interception("send_hook", {"to": "ann@acme.com"})
    assert call.before() == {"to": "ann@acme.com"}
    assert [e.type for e in audit_events(name="send_hook")] == ["call.decided"]
    assert call.after("sent") == "sent"
    assert [e.status for e in audit_events(type="call.ended")] == ["completed"]
    with pytest.raises(PolicyBlockError):
        Interception("send_hook", {"to": "eve@evil.example"}).before()


def test_hooks_redact_arguments_and_results(tappass_plane):
    tappass_plane.policy(POLICY)
    call = Interception("look_hook", {"text": "ann@acme.com", "n": 1})
    assert call.before() == {"text": "[EMAIL]", "n": 1}
    assert call.after({"mail": "bob@acme.com"}) == {"mail": "[EMAIL]"}


def test_an_error_between_the_hooks_settles_as_failed_and_comes_out(tappass_plane, audit_events):
    call = Interception("fails_hook", {})
    call.before()
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        call.after(error=error)
    assert caught.value is error
    assert [e.status for e in audit_events(type="call.ended")] == ["failed"]


def test_a_second_hook_that_never_comes_settles_as_abandoned(tappass_plane, audit_events):
    call = Interception("lost_hook", {})
    call.before()
    del call
    gc.collect()
    assert [e.status for e in audit_events(type="call.ended")] == ["abandoned"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_hooks_are_the_same_awaited(backend, tappass_plane, audit_events):
    tappass_plane.policy(POLICY)

    async def main() -> None:
        call = Interception("look_hook", {"text": "ann@acme.com"})
        assert await call.abefore() == {"text": "[EMAIL]"}
        assert await call.aafter("bob@acme.com") == "[EMAIL]"
        with pytest.raises(PolicyBlockError):
            await Interception("send_hook", {"to": "eve@evil.example"}).abefore()

    anyio.run(main, backend=backend)
    assert [e.outcome for e in audit_events(type="call.decided")] == ["allow", "block"]


def test_a_units_end_brings_back_a_refusal_that_the_framework_swallowed(tappass_plane, audit_events):
    tappass_plane.policy(POLICY)
    send = tool(name="send_hook")(lambda to: None)
    with pytest.raises(PolicyBlockError, match="inside"), unit("run", "crew"):
        for _ in range(3):
            try:
                send("eve@evil.example")
            except Exception:
                continue
    assert [e.status for e in audit_events(type="session.closed")] == ["failed"]
    assert current_session() is None


def test_a_plain_session_leaves_the_users_own_except_standing(tappass_plane, audit_events):
    from tappass import tappass_session

    tappass_plane.policy(POLICY)
    send = tool(name="send_hook")(lambda to: None)
    with tappass_session(), pytest.raises(PolicyBlockError):
        send("eve@evil.example")
    assert [e.status for e in audit_events(type="session.closed")] == ["completed"]
