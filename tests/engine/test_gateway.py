"""The gateway: chat turns decided, redacted and recorded, with a scripted upstream behind it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing
from typing import Any

import anyio
import pytest

from tappass.engine import http_clients
from tappass.errors import (
    PolicyBlockError,
    RedactionApplied,
    TapPassConfigError,
    TapPassConnectionError,
)
from tappass.testing import MemoryPlane, memory_plane
from tappass.wire.chat import ChatChunk, ChatRequest, ChatResponse, ToolCall, Usage
from tappass.wire.sessions import Opening
from tests.fake_model import Answer, Call, FakeModel, error, events, text

POLICY = """
version: 1
rules:
  - id: no-secret-project
    llm: "*"
    when: args.prompt.contains("zeppelin")
    effect: block
    classification: SECRET
detect:
  secrets: {prompt: block, result: redact}
  pii: {prompt: redact, result: redact}
"""
KEY = "AKIA" + "Z3Q7MNBVCXLKJHGF"
MAIL = "jane.doe@acme.example"


class Subject:
    """A plane with one upstream, and a session in it."""

    def __init__(self, plane: MemoryPlane, model: FakeModel, backend: str) -> None:
        self.plane, self.model, self._backend = plane, model, backend
        self.session = plane.plane.sync.open(Opening(name="test"))

    def request(self, prompt: Any = "Hello", **more: Any) -> ChatRequest:
        messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
        fields: dict[str, Any] = {"model": "gpt-4o-mini", "messages": messages, "task_id": f"tsk_{id(messages)}"}
        return ChatRequest(session_id=self.session.session_id, **(fields | more))

    def chat(self, *args: Any, **more: Any) -> ChatResponse:
        asked = self.request(*args, **more)
        if self._backend == "sync":
            return self.plane.plane.sync.chat(asked)
        return anyio.run(self.plane.plane.aio.chat, asked, backend=self._backend)

    def stream(self, *args: Any, **more: Any) -> list[ChatChunk]:
        asked = self.request(*args, **more)
        if self._backend == "sync":
            return list(self.plane.plane.sync.stream(asked))

        async def collect() -> list[ChatChunk]:
            source: Any = await self.plane.plane.aio.stream(asked)
            async with aclosing(source) as chunks:
                return [chunk async for chunk in chunks]

        return anyio.run(collect, backend=self._backend)

    def either(self, streamed: bool) -> Callable[..., Any]:
        return self.stream if streamed else self.chat

    def ended(self) -> Any:
        (ending,) = self.plane.events(type="call.ended")
        return ending


@pytest.fixture(params=["sync", "asyncio", "trio"])
def gateway(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with ExitStack() as stack:
        model = stack.enter_context(FakeModel())
        settings = f'[[upstream]]\nmatch = "gpt-*"\nbase_url = "{model.base_url}"\n'
        yield Subject(stack.enter_context(memory_plane(POLICY, settings)), model, request.param)
        http_clients.close()


def said(chunks: list[ChatChunk]) -> str:
    return "".join(map(str, chunks))


def test_response_has_ids_model_and_usage(gateway: Subject) -> None:
    response = gateway.chat(task_id="tsk_mine")
    assert str(response) == "Hello."
    assert response.model == "fake-1"
    assert response.usage == Usage(prompt_tokens=7, completion_tokens=3, total_tokens=10)
    assert response.finish_reason == "stop"
    assert (response.session_id, response.task_id) == (gateway.session.session_id, "tsk_mine")
    assert response.agent_uuid == gateway.session.agent_uuid
    assert response.pipeline_uuid == gateway.session.pipeline_uuid
    assert response.audit_url == gateway.session.audit_url


def test_every_chunk_has_ids_and_the_last_ones_end_and_usage(gateway: Subject) -> None:
    gateway.model.add(text("Hel", "lo"))
    chunks = gateway.stream(task_id="tsk_mine")
    assert said(chunks) == "Hello"
    for chunk in chunks:
        ids = (chunk.session_id, chunk.task_id, chunk.agent_uuid, chunk.pipeline_uuid, chunk.audit_url)
        of = gateway.session
        assert ids == (of.session_id, "tsk_mine", of.agent_uuid, of.pipeline_uuid, of.audit_url)
    assert [chunk.finish_reason for chunk in chunks][-2:] == ["stop", ""]
    assert chunks[-1].usage == Usage(prompt_tokens=7, completion_tokens=3, total_tokens=10)


@pytest.mark.parametrize("streamed", [False, True])
def test_turn_is_one_decision_and_one_ending_with_tokens(gateway: Subject, streamed: bool) -> None:
    gateway.either(streamed)()
    (decided,) = gateway.plane.events(type="call.decided")
    assert (decided.kind, decided.name, decided.outcome) == ("llm", "gpt-4o-mini", "allow")
    ended = gateway.ended()
    assert (ended.status, ended.model, ended.tokens) == ("completed", "fake-1", (7, 3))
    assert ended.task_id == decided.task_id


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "prompt",
    [
        "build the zeppelin",
        [{"role": "system", "content": "about the zeppelin"}, {"role": "user", "content": "go on"}],
        [{"role": "user", "content": [{"type": "text", "text": "zeppelin"}]}, {"role": "user", "content": "on"}],
    ],
)
def test_blocked_prompt_never_reaches_the_upstream(gateway: Subject, prompt: Any, streamed: bool) -> None:
    with pytest.raises(PolicyBlockError) as caught:
        gateway.either(streamed)(prompt)
    assert gateway.model.seen == []
    assert caught.value.blocked_by == "no-secret-project"
    assert caught.value.classification == "SECRET"
    assert caught.value.session_id == gateway.session.session_id
    assert not caught.value.ran
    assert "zeppelin" not in str(caught.value)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "hidden",
    [
        {"prompt": [{"role": "tool", "tool_call_id": "c", "content": f"key {KEY}"}, {"role": "user", "content": "on"}]},
        {"tools": ({"type": "function", "function": {"name": "f", "description": f"uses {KEY}"}},)},
        {"parameters": {"stop": [KEY]}},
    ],
)
def test_secret_anywhere_in_a_request_blocks_it(gateway: Subject, hidden: dict[str, Any], streamed: bool) -> None:
    with pytest.raises(PolicyBlockError):
        gateway.either(streamed)(**hidden)
    assert gateway.model.seen == []


@pytest.mark.parametrize("streamed", [False, True])
def test_upstream_gets_the_masked_prompt(gateway: Subject, streamed: bool) -> None:
    gateway.either(streamed)([{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Ask {MAIL}."}])
    assert gateway.model.seen[0].body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Ask [EMAIL]."},
    ]


def test_response_lists_what_was_masked_on_both_ways(gateway: Subject) -> None:
    gateway.model.add(text(f"Wrote to {MAIL}."))
    response = gateway.chat(f"Write to {MAIL}")
    assert response.content == "Wrote to [EMAIL]."
    assert [(r.kind, r.where) for r in response.redactions] == [("EMAIL", "/messages/0/content"), ("EMAIL", "/content")]


def test_address_split_over_chunks_is_masked(gateway: Subject) -> None:
    gateway.model.add(text("Reach ", "jane", ".doe@", "ac", "me.exam", "ple", " or", " call."))
    chunks = gateway.stream()
    assert said(chunks) == "Reach [EMAIL] or call."
    assert gateway.ended().findings == ("EMAIL:1",)
    assert len([chunk for chunk in chunks if chunk.content]) > 1


ARGUMENTS = ('{"bo', 'dy": "key ', "AKIA", 'Z3Q7MNBV\\u0043XLKJHGF", "to"', ': "x"}')


def test_secret_in_tool_call_arguments_is_masked(gateway: Subject) -> None:
    gateway.model.add(Answer(pieces=(), calls=(Call("send", ARGUMENTS),)))
    (call,) = gateway.chat().tool_calls
    assert (call.id, call.name) == ("call_1", "send")
    assert json.loads(call.arguments) == {"body": "key [AWS_ACCESS_KEY]", "to": "x"}


def test_secret_in_tool_call_deltas_is_masked(gateway: Subject) -> None:
    calls = (Call("send", ARGUMENTS), Call("look", ('{"q":', ' "y"}'), id="call_2", index=1))
    gateway.model.add(Answer(pieces=(), calls=calls))
    deltas = [delta for chunk in gateway.stream() for delta in chunk.tool_calls]
    first = [delta for delta in deltas if delta.index == 0]
    assert (first[0].id, first[0].name) == ("call_1", "send")
    assert json.loads("".join(delta.arguments for delta in first)) == {"body": "key [AWS_ACCESS_KEY]", "to": "x"}
    assert "".join(delta.arguments for delta in deltas if delta.index == 1) == '{"q": "y"}'


def test_untouched_arguments_keep_the_model_s_own_text(gateway: Subject) -> None:
    gateway.model.add(Answer(pieces=(), calls=(Call("send", ('{ "n":  1.0 }',)),)))
    assert gateway.chat().tool_calls == (ToolCall(id="call_1", name="send", arguments='{ "n":  1.0 }'),)


@pytest.mark.parametrize("streamed", [False, True])
def test_answer_that_must_not_be_seen_is_withheld(gateway: Subject, streamed: bool) -> None:
    gateway.plane.policy("version: 1\ndetect:\n  secrets: {result: block}\n")
    gateway.session = gateway.plane.plane.sync.open(Opening(name="other"))
    gateway.model.add(text("The key is ", KEY, " ."))
    with pytest.raises(PolicyBlockError) as caught:
        gateway.either(streamed)()
    assert caught.value.ran
    assert caught.value.session_id == gateway.session.session_id
    assert KEY not in str(caught.value)


def test_asking_for_an_error_gets_one_before_the_upstream_is_asked(gateway: Subject) -> None:
    with pytest.raises(RedactionApplied) as caught:
        gateway.chat(f"Ask {MAIL}", raise_on_redaction=True)
    assert gateway.model.seen == []
    assert caught.value.redacted_content == "Ask [EMAIL]"
    assert [r.where for r in caught.value.redactions] == ["/messages/0/content"]


@pytest.mark.parametrize("streamed", [False, True])
def test_asking_for_an_error_gets_one_for_the_answer(gateway: Subject, streamed: bool) -> None:
    gateway.model.add(text(f"Ask {MAIL} now"))
    with pytest.raises(RedactionApplied) as caught:
        gateway.either(streamed)(raise_on_redaction=True)
    assert "[EMAIL]" in caught.value.redacted_content
    assert [r.where for r in caught.value.redactions] == ["/content"]
    assert caught.value.ran


@pytest.mark.parametrize("streamed", [False, True])
def test_failing_upstream_settles_as_failed(gateway: Subject, streamed: bool) -> None:
    gateway.model.add(error(503))
    with pytest.raises(TapPassConnectionError, match="answered 503"):
        gateway.either(streamed)()
    assert (gateway.ended().status, gateway.ended().error_type) == ("failed", "TapPassConnectionError")


def test_truncated_stream_shows_no_held_back_text(gateway: Subject) -> None:
    gateway.model.add(events('{"choices":[{"delta":{"content":"so jane.doe@ac"}}]}'))
    with pytest.raises(TapPassConnectionError, match="before the answer was complete"):
        gateway.stream()
    assert gateway.ended().status == "failed"


@pytest.mark.parametrize("streamed", [False, True])
def test_request_that_goes_around_the_rules_is_never_decided(gateway: Subject, streamed: bool) -> None:
    with pytest.raises(TapPassConfigError, match="`functions`"):
        gateway.either(streamed)(parameters={"functions": []})
    assert gateway.plane.events(type="call.decided") == []


def test_stream_without_usage_is_recorded_without(gateway: Subject) -> None:
    gateway.model.refuse_stream_options = True
    assert said(gateway.stream()) == "Hello."
    assert gateway.ended().tokens == ()


def test_closed_stream_settles_as_abandoned_and_ends_the_request(gateway: Subject) -> None:

    gateway.model.add(text("one two three", " four five", after={2: threading.Event()}))
    asked = gateway.request()

    async def leave() -> None:
        chunks: Any = await gateway.plane.plane.aio.stream(asked)
        assert (await anext(chunks)).content
        await chunks.aclose()

    if gateway._backend == "sync":
        chunks: Any = gateway.plane.plane.sync.stream(asked)
        assert next(chunks).content
        chunks.close()
        del chunks
    else:
        anyio.run(leave, backend=gateway._backend)
    assert gateway.model.gone.wait(5)
    assert gateway.ended().status == "abandoned"
