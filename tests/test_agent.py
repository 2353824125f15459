"""Agent and AsyncAgent: governed chat, in whatever session is active."""

from __future__ import annotations

import gc
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tappass import Agent, AsyncAgent, tappass_session
from tappass.engine import http_clients
from tappass.errors import PolicyBlockError, RedactionApplied, TapPassConfigError
from tappass.streams import AsyncChatStream
from tappass.testing import MemoryPlane, memory_plane
from tappass.wire.chat import ChatChunk, ChatResponse
from tests.fake_model import FakeModel, Raw, text
from tests.forks import in_child

POLICY = """
version: 1
rules:
  - id: no-zeppelin
    llm: "*"
    when: args.prompt.contains("zeppelin")
    effect: block
  - id: not-that-team
    llm: "*"
    when: '"team" in args.metadata && args.metadata.team == "red"'
    effect: block
detect:
  pii: {prompt: redact, result: redact}
  secrets: {result: block}
"""


class Subject:
    """One kind of agent, sync or async on one backend, on a plane with a scripted upstream."""

    def __init__(self, plane: MemoryPlane, model: FakeModel, backend: str) -> None:
        self.plane, self.model, self.backend = plane, model, backend

    def run(self, scenario: Callable[..., Any], *args: Any) -> Any:
        return anyio.run(scenario, *args, backend=self.backend)

    def chat(self, prompt: Any, agent: dict[str, Any] | None = None, **more: Any) -> ChatResponse:
        if self.backend == "sync":
            with Agent(**(agent or {})) as sync:
                return sync.chat(prompt, **more)

        async def scenario() -> ChatResponse:
            async with AsyncAgent(**(agent or {})) as made:
                return await made.chat(prompt, **more)

        return self.run(scenario)

    def stream(self, prompt: Any, agent: dict[str, Any] | None = None, **more: Any) -> list[ChatChunk]:
        if self.backend == "sync":
            with Agent(**(agent or {})).stream(prompt, **more) as sync:
                return list(sync)

        async def scenario() -> list[ChatChunk]:
            async with AsyncAgent(**(agent or {})).stream(prompt, **more) as made:
                return [chunk async for chunk in made]

        return self.run(scenario)

    def settled_as(self, status: str) -> bool:
        """Wait until the one call of this test has that ending."""
        for _ in range(500):
            if ended := self.plane.events(type="call.ended"):
                return [event.status for event in ended] == [status]
            time.sleep(0.01)
        return False


def subject(backend: str) -> Iterator[Subject]:
    with ExitStack() as stack:
        model = stack.enter_context(FakeModel())
        settings = f'[[upstream]]\nmatch = "*"\nbase_url = "{model.base_url}"\n'
        yield Subject(stack.enter_context(memory_plane(POLICY, settings)), model, backend)
        http_clients.close()


@pytest.fixture(params=["sync", "asyncio", "trio"])
def agents(request: pytest.FixtureRequest) -> Iterator[Subject]:
    yield from subject(request.param)


@pytest.fixture(params=["asyncio", "trio"])
def async_agents(request: pytest.FixtureRequest) -> Iterator[Subject]:
    yield from subject(request.param)


@pytest.fixture
def sync_agents() -> Iterator[Subject]:
    yield from subject("sync")


def test_chat_answers_in_the_active_session(agents: Subject) -> None:
    with tappass_session(name="work") as session:
        response = agents.chat("Hello")
    assert str(response) == response.content == "Hello."
    assert response.session_id == session.session_id
    assert response.task_id.startswith("tsk_")
    assert (response.agent_uuid, response.pipeline_uuid) == (session.agent_uuid, session.pipeline_uuid)
    assert response.audit_url == session.audit_url
    (decided,) = agents.plane.events(type="call.decided")
    assert (decided.session_id, decided.task_id) == (session.session_id, response.task_id)


def test_outside_any_session_turns_share_the_implicit_one(agents: Subject) -> None:
    first, second = agents.chat("Hello"), agents.chat("Hello")
    assert first.session_id == second.session_id
    assert first.task_id != second.task_id


def test_stream_brings_chunks_with_the_session_s_ids(agents: Subject) -> None:
    agents.model.add(text("One ", "two"))
    with tappass_session(name="work") as session:
        chunks = agents.stream("Count")
    assert "".join(map(str, chunks)) == "One two"
    assert {chunk.session_id for chunk in chunks} == {session.session_id}
    assert len({chunk.task_id for chunk in chunks}) == 1


def test_prompt_may_be_messages_and_nothing_is_remembered(agents: Subject) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    agents.chat(messages)
    agents.chat("And now?")
    assert agents.model.seen[0].body["messages"] == messages
    assert agents.model.seen[1].body["messages"] == [{"role": "user", "content": "And now?"}]


def test_model_tools_and_parameters_reach_the_upstream(agents: Subject) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    agents.chat("Hello", agent={"model": "small"}, tools=tools, temperature=0)
    agents.chat("Hello", agent={"model": "small"}, model="large")
    first, second = (seen.body for seen in agents.model.seen)
    assert (first["model"], first["tools"], first["temperature"]) == ("small", tools, 0)
    assert second["model"] == "large"
    assert Agent().model == AsyncAgent().model == "gpt-4o-mini"


def test_rules_read_metadata(agents: Subject) -> None:
    assert agents.chat("Hello", metadata={"team": "blue"}).content
    with pytest.raises(PolicyBlockError, match="not-that-team"):
        agents.chat("Hello", metadata={"team": "red"})


@pytest.mark.parametrize("streamed", [False, True])
def test_refused_prompt_is_answered_the_same_without_asking_again(agents: Subject, streamed: bool) -> None:
    ask = agents.stream if streamed else agents.chat
    with tappass_session(name="work") as session:
        for _ in range(3):
            with pytest.raises(PolicyBlockError) as caught:
                ask("build the zeppelin")
            assert caught.value.blocked_by == "no-zeppelin"
            assert caught.value.session_id == session.session_id
        assert len(agents.plane.events(type="call.decided")) == 1
        assert ask("build a kite")
    assert len(agents.model.seen) == 1


def test_refusal_outside_any_session_is_not_remembered(agents: Subject) -> None:
    for _ in range(2):
        with pytest.raises(PolicyBlockError):
            agents.chat("build the zeppelin")
    assert len(agents.plane.events(type="call.decided")) == 2


def test_answer_that_was_withheld_may_be_asked_for_again(agents: Subject) -> None:
    agents.model.add(text("AKIA" + "Z3Q7MNBVCXLKJHGF"))
    with tappass_session(name="work"):
        with pytest.raises(PolicyBlockError) as caught:
            agents.chat("Hello")
        assert caught.value.ran
        assert agents.chat("Hello").content == "Hello."


def test_refusals_survive_pickle_with_their_ids(agents: Subject) -> None:
    with tappass_session(name="work"), pytest.raises(PolicyBlockError) as caught:
        agents.chat("build the zeppelin")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.correlation == caught.value.correlation
    assert again.task_id


def test_what_an_agent_says_itself_wins_over_its_session(agents: Subject) -> None:
    agents.model.add(text("Ask jane@acme.example"))
    with tappass_session(name="work", raise_on_redaction=True):
        assert agents.chat("Whom?", agent={"raise_on_redaction": False}).content == "Ask [EMAIL]"


@pytest.mark.parametrize("by", ["agent", "session"])
def test_raise_on_redaction_comes_from_agent_or_session(agents: Subject, by: str) -> None:
    agents.model.add(text("Ask jane@acme.example"))
    with tappass_session(name="work", raise_on_redaction=by == "session"), pytest.raises(RedactionApplied) as caught:
        agents.chat("Whom?", agent={"raise_on_redaction": True} if by == "agent" else {})
    assert caught.value.redacted_content == "Ask [EMAIL]"


@pytest.mark.parametrize("prompt", [{"role": "user"}, b"bytes", 7, ["text"], [{"role": "user", "content": object()}]])
def test_what_is_no_prompt_is_refused(agents: Subject, prompt: Any) -> None:
    with pytest.raises(TapPassConfigError):
        agents.chat(prompt)
    assert agents.model.seen == []


def test_metadata_that_is_not_text_is_refused(agents: Subject) -> None:
    with pytest.raises(TapPassConfigError, match="`metadata`"):
        agents.chat("Hello", metadata={"n": 1})


def test_closed_agent_takes_no_turn(sync_agents: Subject) -> None:
    agent = Agent()
    agent.close()
    with pytest.raises(TapPassConfigError, match="this Agent is closed"):
        agent.chat("Hello")


def test_an_agent_does_not_show_its_key() -> None:
    assert "sk-secret" not in repr(Agent("http://x.example", "sk-secret"))
    assert "sk-secret" not in repr(AsyncAgent("http://x.example", api_key="sk-secret"))


def test_cancelled_chat_settles_as_cancelled(async_agents: Subject) -> None:
    never = threading.Event()
    async_agents.model.add(Raw(before=never))

    async def scenario() -> None:
        with anyio.fail_after(10), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(AsyncAgent().chat, "Hello")
                await anyio.to_thread.run_sync(async_agents.model.asked.wait, 5)
                scope.cancel()
        assert scope.cancelled_caught

    async_agents.run(scenario)
    assert async_agents.settled_as("cancelled")
    never.set()


def test_cancelled_stream_settles_as_cancelled(async_agents: Subject) -> None:
    async_agents.model.add(text("one two three", " four", after={2: threading.Event()}))

    async def scenario() -> None:
        with anyio.fail_after(10), anyio.CancelScope() as scope:
            async with AsyncAgent().stream("Count") as chunks:
                async for _ in chunks:
                    scope.cancel()
        assert scope.cancelled_caught

    async_agents.run(scenario)
    assert async_agents.settled_as("cancelled")
    assert async_agents.model.gone.wait(5)


def test_stream_that_is_never_read_asks_nothing(sync_agents: Subject) -> None:
    stream = Agent().stream("Count")
    del stream
    assert sync_agents.plane.events(type="call.decided") == []


@pytest.mark.parametrize("how", ["closed", "dropped", "collected"])
def test_unfinished_stream_settles_as_abandoned(sync_agents: Subject, how: str) -> None:
    sync_agents.model.add(text("one two three", " four", after={2: threading.Event()}))
    stream: Any = Agent().stream("Count")
    assert str(next(stream))
    if how == "closed":
        stream.close()
        assert list(stream) == []
    if how == "collected":
        stream.itself = stream
    del stream
    gc.collect()
    assert sync_agents.settled_as("abandoned")
    assert sync_agents.model.gone.wait(5)


def test_unfinished_asynchronous_stream_settles_as_abandoned() -> None:
    for asyncio_only in subject("asyncio"):
        asyncio_only.model.add(text("one two three", " four", after={2: threading.Event()}))

        async def scenario() -> None:
            stream: AsyncChatStream = AsyncAgent().stream("Count")
            await anext(stream)
            del stream
            gc.collect()
            await anyio.sleep(0.05)

        asyncio_only.run(scenario)
        assert asyncio_only.settled_as("abandoned")


def test_forked_child_leaves_the_parent_s_stream_alone(sync_agents: Subject) -> None:
    go_on = threading.Event()
    sync_agents.model.add(text("one two three", " four", after={2: go_on}))
    stream = Agent().stream("Count")
    next(stream)
    in_child(stream.close)
    go_on.set()
    assert "".join(map(str, stream)).endswith("four")
    assert sync_agents.settled_as("completed")


def test_threads_share_an_agent(sync_agents: Subject) -> None:
    agent = Agent()
    answers: list[ChatResponse] = []
    threads = [threading.Thread(target=lambda: answers.append(agent.chat("Hello"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer.task_id for answer in answers}) == 8
