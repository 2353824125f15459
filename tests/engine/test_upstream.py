"""Asking an OpenAI-compatible upstream, sync and async, whole and streamed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import pytest

from tappass.engine import http_clients, upstream_reading
from tappass.engine.openai_shapes import Chunk, Completion
from tappass.engine.upstream import Upstreams
from tappass.errors import TapPassConfigError, TapPassConnectionError
from tappass.wire.chat import ChatRequest, ToolCall, Usage
from tests.fake_model import Answer, Call, FakeModel, Raw, error, events, text
from tests.forks import in_child

KEY = "sk-test-4f9a-never-shown"
PROMPT = "the payload nobody may quote"


class Setting(NamedTuple):
    match: str
    base_url: str
    key_env: str = ""
    timeout_s: float = 5.0


def request(**more: Any) -> ChatRequest:
    fields: dict[str, Any] = {"model": "gpt-4o-mini", "messages": ({"role": "user", "content": PROMPT},)}
    return ChatRequest(session_id="ses_1", task_id="tsk_1", **(fields | more))


@pytest.fixture
def model() -> Iterator[FakeModel]:
    with FakeModel() as served:
        yield served
    http_clients.close()


@pytest.fixture
def upstreams(model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> Upstreams:
    monkeypatch.setenv("SOME_KEY", KEY)
    return Upstreams([Setting("gpt-*", model.base_url, "SOME_KEY")])


class Face:
    """Both faces of the upstreams, so that one test reads for all."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def complete(self, upstreams: Upstreams, asked: ChatRequest) -> Completion:
        if self.kind == "sync":
            return upstreams.complete(asked)
        return anyio.run(upstreams.acomplete, asked, backend=self.kind)

    def stream(self, upstreams: Upstreams, asked: ChatRequest) -> list[Chunk]:
        if self.kind == "sync":
            return list(upstreams.stream(asked))

        async def collect() -> list[Chunk]:
            return [chunk async for chunk in upstreams.astream(asked)]

        return anyio.run(collect, backend=self.kind)


@pytest.fixture(params=["sync", "asyncio", "trio"])
def face(request: pytest.FixtureRequest) -> Face:
    return Face(request.param)


def said(chunks: list[Chunk]) -> str:
    return "".join(chunk.content for chunk in chunks)


def test_answer_has_text_calls_model_and_usage(face: Face, model: FakeModel, upstreams: Upstreams) -> None:
    model.add(Answer(pieces=("Hi ", "there"), calls=(Call("pay", ('{"to":', ' "x"}')),)))
    answer = face.complete(upstreams, request())
    assert answer == Completion(
        content="Hi there",
        model="fake-1",
        tool_calls=(ToolCall(id="call_1", name="pay", arguments='{"to": "x"}'),),
        finish_reason="tool_calls",
        usage=Usage(prompt_tokens=7, completion_tokens=3, total_tokens=10),
    )


def test_request_carries_messages_tools_parameters_but_not_metadata(
    face: Face, model: FakeModel, upstreams: Upstreams
) -> None:
    tools = ({"type": "function", "function": {"name": "pay"}},)
    face.complete(upstreams, request(tools=tools, parameters={"temperature": 0}, metadata={"team": "a"}))
    assert model.seen[0].path == "/v1/chat/completions"
    assert model.seen[0].body == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0,
        "tools": list(tools),
    }


def test_stream_brings_text_call_deltas_finish_and_usage(face: Face, model: FakeModel, upstreams: Upstreams) -> None:
    model.add(Answer(pieces=("Grüße", " 👋"), calls=(Call("pay", ('{"to":', '"x"}')),)))
    chunks = face.stream(upstreams, request())
    assert said(chunks) == "Grüße 👋"
    deltas = [delta for chunk in chunks for delta in chunk.tool_calls]
    assert [delta.name for delta in deltas] == ["pay", "", ""]
    assert "".join(delta.arguments for delta in deltas) == '{"to":"x"}'
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["tool_calls"]
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [10]


def test_chunks_arrive_while_the_model_still_writes(model: FakeModel, upstreams: Upstreams) -> None:
    go_on = threading.Event()
    model.add(text("first", "second", after={2: go_on}))
    chunks = upstreams.stream(request())
    assert next(chunk.content for chunk in chunks if chunk.content) == "first"
    go_on.set()
    assert said(list(chunks)) == "second"


def test_key_goes_to_its_upstream_only(face: Face, upstreams: Upstreams, model: FakeModel) -> None:
    with FakeModel() as other:
        both = Upstreams(
            [Setting("gpt-*", model.base_url, "SOME_KEY"), Setting("*", other.base_url)],
        )
        face.complete(both, request())
        face.complete(both, request(model="claude"))
        assert model.seen[0].headers["authorization"] == f"Bearer {KEY}"
        assert "authorization" not in other.seen[0].headers


def test_redirect_is_not_followed(face: Face, model: FakeModel, upstreams: Upstreams) -> None:
    with FakeModel() as elsewhere:
        model.add(Raw(status=307, headers=(("location", f"{elsewhere.base_url}/chat/completions"),)))
        with pytest.raises(TapPassConnectionError, match=r"307.*redirects are not followed"):
            face.complete(upstreams, request())
        assert elsewhere.seen == []


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "check the key in SOME_KEY"), (404, "`base_url`"), (429, "try again later"), (503, "try again later")],
)
def test_refusal_says_what_to_do_without_key_or_payload(
    face: Face, model: FakeModel, upstreams: Upstreams, status: int, advice: str, streamed: bool
) -> None:
    model.add(error(status, "some_code", f"key {KEY} sent {PROMPT}"))
    with pytest.raises(TapPassConnectionError) as caught:
        (face.stream if streamed else face.complete)(upstreams, request())
    message = str(caught.value)
    assert message.startswith(f"upstream {model.host} answered {status} (some_code)")
    assert advice in message
    assert KEY not in message
    assert PROMPT not in message


def test_error_code_that_might_be_a_secret_is_not_quoted(face: Face, model: FakeModel, upstreams: Upstreams) -> None:
    model.add(error(400, KEY))
    with pytest.raises(TapPassConnectionError, match="answered 400;"):
        face.complete(upstreams, request())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Raw(body=(b"<html>not json</html>",)), "a shape that chat completions do not have"),
        (Raw(body=(b'{"choices": 3}',)), "a shape that chat completions do not have"),
        (Raw(body=(b'{"choices": [{"message": {"content": "\xff"}}]}',)), "a shape that chat completions do not have"),
        (Raw(body=(b'{"choices": []}',)), "without any choice"),
        (Raw(body=(b'{"choi',), cut=True), "broke off"),
    ],
)
def test_garbage_is_a_connection_error(
    face: Face, model: FakeModel, upstreams: Upstreams, answer: Raw, message: str
) -> None:
    model.add(answer)
    with pytest.raises(TapPassConnectionError, match=message) as caught:
        face.complete(upstreams, request())
    assert model.host in str(caught.value)


PIECE = '{"choices":[{"index":0,"delta":{"content":"half"}}]}'


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (events(PIECE), "before the answer was complete"),
        (events(PIECE, '{"choices":'), "a shape that chat completions do not have"),
        (
            events(PIECE, '{"error": {"code": "overloaded", "message": "secret"}}'),
            r"an error in its answer \(overloaded\)",
        ),
        (events(PIECE, "x" * 1_100_000), "too large"),
        (Raw(body=(b"{}",)), "did not answer with an event stream"),
    ],
)
def test_broken_stream_is_a_connection_error(
    face: Face, model: FakeModel, upstreams: Upstreams, answer: Raw, message: str
) -> None:
    model.add(answer)
    with pytest.raises(TapPassConnectionError, match=message):
        face.stream(upstreams, request())


def test_stream_without_done_ends_with_its_finish_reason(face: Face, model: FakeModel, upstreams: Upstreams) -> None:
    model.add(events(PIECE, '{"choices":[{"delta":{},"finish_reason":"stop"}]}'))
    assert said(face.stream(upstreams, request())) == "half"


def test_stream_in_any_framing_is_read(face: Face, model: FakeModel, upstreams: Upstreams) -> None:
    whole = (
        ': hi\r\nevent: x\r\ndata: {"choices":\r\ndata: [{"delta":{"content":"Zoë 👋"}}]}\r\n\r\ndata: [DONE]'.encode()
    )
    model.add(Raw(body=tuple(bytes([byte]) for byte in whole), content_type="text/event-stream"))
    assert said(face.stream(upstreams, request())) == "Zoë 👋"


def test_server_that_refuses_stream_options_is_asked_without(
    face: Face, model: FakeModel, upstreams: Upstreams
) -> None:
    model.refuse_stream_options = True
    assert said(face.stream(upstreams, request())) == "Hello."
    assert said(face.stream(upstreams, request())) == "Hello."
    assert ["stream_options" in seen.body for seen in model.seen] == [True, False, False]


def test_silent_upstream_times_out(face: Face, model: FakeModel) -> None:
    never = threading.Event()
    model.add(Raw(before=never))
    with pytest.raises(TapPassConnectionError, match=r"was silent for 0.1 s; try again, or raise its `timeout_s`"):
        face.complete(Upstreams([Setting("*", model.base_url, timeout_s=0.1)]), request())
    never.set()


def test_unreachable_upstream_is_named_without_its_credentials(face: Face) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        upstreams = Upstreams([Setting("*", f"http://user:hunter2@{host}/v1")])
        with pytest.raises(TapPassConnectionError, match=f"upstream {host} cannot be reached") as caught:
            face.complete(upstreams, request())
    assert "hunter2" not in str(caught.value)


def test_too_long_an_answer_is_not_collected(
    face: Face, model: FakeModel, upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_reading, "MAX_BODY_BYTES", 2**20)
    model.add(Raw(body=(b" " * (2**20 + 1),)))
    with pytest.raises(TapPassConnectionError, match="sent over 1 MiB"):
        face.complete(upstreams, request())


def test_unset_key_names_the_variable(model: FakeModel) -> None:
    with pytest.raises(TapPassConfigError, match="MISSING_KEY, which holds the key"):
        Upstreams([Setting("*", model.base_url, "MISSING_KEY")]).complete(request())
    assert model.seen == []


def test_key_no_header_can_hold_is_not_quoted(model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-sécret")
    with pytest.raises(TapPassConfigError, match="SOME_KEY") as caught:
        Upstreams([Setting("*", model.base_url, "SOME_KEY")]).complete(request())
    assert "sk-s" not in str(caught.value)


@pytest.mark.parametrize("base_url", ["api.example.com/v1", "ftp://example.com", "http://"])
def test_base_url_that_is_none_is_refused(base_url: str) -> None:
    with pytest.raises(TapPassConfigError, match="`base_url`"):
        Upstreams([Setting("*", base_url)]).complete(request())


def test_model_no_upstream_serves_is_refused(upstreams: Upstreams, model: FakeModel) -> None:
    with pytest.raises(TapPassConfigError, match=r"serves the model `claude` \(they match `gpt-\*`\)"):
        upstreams.complete(request(model="claude"))
    assert model.seen == []


@pytest.mark.parametrize("name", ["messages", "model", "stream", "tools", "metadata", "functions", "prediction"])
def test_parameters_cannot_go_around_the_decision(upstreams: Upstreams, model: FakeModel, name: str) -> None:
    with pytest.raises(TapPassConfigError, match=f"`{name}`"):
        upstreams.complete(request(parameters={name: "x"}))
    assert model.seen == []


def test_first_matching_glob_is_asked() -> None:
    with FakeModel() as first, FakeModel() as second:
        upstreams = Upstreams([Setting("gpt-4?", first.base_url), Setting("gpt-*", second.base_url)])
        upstreams.complete(request(model="gpt-4o"))
        upstreams.complete(request(model="gpt-4o-mini"))
        assert [len(first.seen), len(second.seen)] == [1, 1]
    http_clients.close()


def test_one_client_serves_the_process(upstreams: Upstreams) -> None:
    upstreams.complete(request())
    first = http_clients.client()
    upstreams.complete(request())
    assert http_clients.client() is first


def test_forked_child_asks_through_a_client_of_its_own(upstreams: Upstreams, model: FakeModel) -> None:
    upstreams.complete(request())
    before = http_clients.client()

    def child() -> None:
        assert upstreams.complete(request()).content == "Hello."
        assert http_clients.client() is not before

    in_child(child)
    assert upstreams.complete(request()).content == "Hello."
    assert http_clients.client() is before


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_each_event_loop_has_one_client_that_closes_with_it(
    upstreams: Upstreams, model: FakeModel, backend: str
) -> None:
    async def twice() -> Any:
        await upstreams.acomplete(request())
        client = await http_clients.aclient()
        await upstreams.acomplete(request())
        assert await http_clients.aclient() is client
        return client

    first, second = anyio.run(twice, backend=backend), anyio.run(twice, backend=backend)
    assert first is not second
    assert first.is_closed
    assert second.is_closed


def test_closing_a_stream_ends_the_request(model: FakeModel, upstreams: Upstreams) -> None:
    model.add(text("first", "second", after={2: threading.Event()}))
    chunks = upstreams.stream(request())
    next(chunk for chunk in chunks if chunk.content)
    chunks.close()
    assert model.gone.wait(5)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancelling_an_answer_ends_the_request(model: FakeModel, upstreams: Upstreams, backend: str) -> None:
    model.add(text("first", "second", after={2: threading.Event()}))

    async def leave() -> None:
        with anyio.CancelScope() as scope:
            async for chunk in upstreams.astream(request()):
                if chunk.content:
                    scope.cancel()

    anyio.run(leave, backend=backend)
    assert model.gone.wait(5)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_closing_an_asynchronous_stream_ends_the_request(model: FakeModel, upstreams: Upstreams, backend: str) -> None:
    model.add(text("first", "second", after={2: threading.Event()}))

    async def leave() -> None:
        async with aclosing(upstreams.astream(request())) as chunks:
            async for chunk in chunks:
                if chunk.content:
                    break
        with anyio.fail_after(5):
            await anyio.to_thread.run_sync(model.gone.wait, 5)

    anyio.run(leave, backend=backend)
    assert model.gone.is_set()


def test_connection_is_used_again_after_a_stream(face: Face, model: FakeModel, upstreams: Upstreams) -> None:
    async def thrice() -> None:
        for _ in range(3):
            async with aclosing(upstreams.astream(request())) as chunks:
                assert [chunk async for chunk in chunks]

    if face.kind == "sync":
        assert all(list(upstreams.stream(request())) for _ in range(3))
    else:
        anyio.run(thrice, backend=face.kind)
    assert len({seen.client for seen in model.seen}) == 1
