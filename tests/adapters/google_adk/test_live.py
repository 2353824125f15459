"""A live run: its tool calls are decided as they come; the conversation itself is not put to policy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.adk.agents.live_request_queue import LiveRequestQueue
from google.adk.models.base_llm import BaseLlm
from google.adk.models.base_llm_connection import BaseLlmConnection
from google.adk.models.llm_response import LlmResponse
from google.genai import types
from google.genai.errors import ServerError
from pydantic import Field

from tappass import PolicyBlockError, guard_adk_agent
from tests.adapters.google_adk.fallback import fallback_model
from tests.adapters.google_adk.mail import IN, OUT, Tools, ended, mailer, results, runner_of


class Connection(BaseLlmConnection):
    """A live connection that asks for the tools of its script, and ends."""

    def __init__(self, asked: list[Any]) -> None:
        self.asked = asked
        self.sent: list[Any] = []

    async def send_history(self, history: Any) -> None: ...

    async def send_content(self, content: Any, **_: Any) -> None:
        self.sent.append(content)

    async def send_realtime(self, blob: Any) -> None: ...

    async def receive(self) -> Any:
        for name, arguments in self.asked:
            part = types.Part(function_call=types.FunctionCall(name=name, args=arguments, id="c1"))
            yield LlmResponse(content=types.Content(role="model", parts=[part]))
        self.asked = []
        yield LlmResponse(turn_complete=True)
        await asyncio.sleep(3600)

    async def close(self) -> None: ...


class Live(BaseLlm):
    calls: list[Any] = Field(default_factory=list)
    connections: list[Any] = Field(default_factory=list)

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> Any:
        raise AssertionError("nobody asks this way")
        yield

    @asynccontextmanager
    async def connect(self, llm_request: Any) -> Any:
        connection = Connection(self.calls)
        self.connections.append(connection)
        yield connection


def live(tools: Tools, *asked: Any, llm: Any = None, **options: Any) -> list[Any]:
    """Run live until the turn is complete; return the events."""
    events: list[Any] = []
    llm = llm or Live(model="mine-live", calls=[*asked])
    runner = runner_of(mailer(tools, model=llm))

    async def main() -> None:
        await runner.session_service.create_session(app_name="mail", user_id="u", session_id="s")
        queue = LiveRequestQueue()
        run = guard_adk_agent(**options)(runner.run_live)
        stream = run(user_id="u", session_id="s", live_request_queue=queue)
        async for event in stream:
            events.append(event)
            if event.turn_complete:
                break
        await stream.aclose()

    asyncio.run(main())
    return events


def test_an_allowed_call_runs_in_a_live_run(here):
    tools = Tools()
    live(tools, IN)
    assert tools.ran == [("send", "ann@acme.com")]
    assert ("send", "completed") in ended(here)
    assert here.events(type="session.closed")[-1].status == "completed"


def test_a_blocked_call_ends_a_live_run(here):
    tools = Tools()
    with pytest.raises(PolicyBlockError):
        live(tools, OUT)
    assert tools.ran == []


def test_a_live_model_is_told_of_a_refusal(here):
    tools = Tools()
    told = results(live(tools, OUT, on_block="tell"))
    assert tools.ran == []
    assert "Not done: " in told[0]["error"]


def test_a_live_connection_is_decided_before_it_is_made(here):
    here.policy("version: 1\nrules:\n  - {id: quiet, llm: 'mine-live', effect: block}")
    tools = Tools()
    with pytest.raises(PolicyBlockError, match="quiet"):
        live(tools, IN)
    assert tools.ran == []


class Watch(Tools):
    """A tool that streams what it sees, as live runs have them."""

    @property
    def functions(self) -> list[Any]:
        async def send(to: str) -> AsyncGenerator[str, None]:
            """Watch."""
            self.ran.append(("send", to))
            yield f"saw {to}"

        return [send]


class Talking(Connection):
    """Says more once it has heard of its tool."""

    def __init__(self, asked: list[Any]) -> None:
        super().__init__(asked)
        self.told = asyncio.Event()

    async def send_content(self, content: Any, **more: Any) -> None:
        await super().send_content(content, **more)
        if any(word in str(content) for word in ("saw", "error")):
            self.told.set()

    async def receive(self) -> Any:
        async for response in super().receive():
            if response.turn_complete:
                break
            yield response
        # Older versions tell nobody of a streaming tool that failed.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.told.wait(), 2)
        yield LlmResponse(content=types.Content(role="model", parts=[types.Part(text="So...")]))
        yield LlmResponse(turn_complete=True)
        await asyncio.sleep(3600)


class Talks(Live):
    @asynccontextmanager
    async def connect(self, llm_request: Any) -> Any:
        connection = Talking(self.calls)
        self.connections.append(connection)
        yield connection


def test_a_streaming_tool_is_decided_and_its_refusal_ends_the_run_though_adk_swallows_it(here):
    tools = Watch()
    live(tools, llm=Talks(model="mine-live", calls=[IN]))
    assert tools.ran == [("send", "ann@acme.com")]
    with pytest.raises(PolicyBlockError):
        live(tools, llm=Talks(model="mine-live", calls=[OUT]))
    assert here.events(type="session.closed")[-1].status == "failed"
    llm = Talks(model="mine-live", calls=[OUT])
    live(tools, llm=llm, on_block="tell")
    assert "Not done: " in str(llm.connections[0].sent)
    assert here.events(type="session.closed")[-1].status == "completed"
    assert len(tools.ran) == 1


class Down(Live):
    @asynccontextmanager
    async def connect(self, llm_request: Any) -> Any:
        raise ServerError(503, {})
        yield


def test_each_live_model_that_a_fallback_tries_is_decided_by_its_own_name(here):
    fallback = fallback_model()
    here.policy("version: 1\nrules:\n  - {id: quiet, llm: 'bad-*', effect: block}")
    tools = Tools()
    backup = Live(model="bad-live", calls=[IN])
    with pytest.raises(PolicyBlockError, match="quiet"):
        live(tools, llm=fallback(models=[Down(model="mine-live"), backup]))
    assert (tools.ran, backup.connections) == ([], [])
    live(tools, llm=fallback(models=[Down(model="mine-live"), Live(model="other-live", calls=[IN])]))
    assert tools.ran == [("send", "ann@acme.com")]
    models = [e.name for e in here.events(type="call.decided") if e.kind == "llm"]
    assert models == ["mine-live", "bad-live", "mine-live", "other-live"]
