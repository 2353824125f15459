"""What compatible servers do otherwise than OpenAI's own, in a loop around the official client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tappass import TapPassConfigError, guard_openai_run
from tests.adapters.scripted import calls
from tests.adapters.test_openai import CHAT_TOOLS, IN, LOOK, OUT, TOOLS, client, model, plane

__all__ = ["client", "model", "plane"]


def ask(guarded: Any, given: Any, **more: Any) -> Any:
    return guarded.responses.create(model="m", input=given, tools=TOOLS, **more)


def output(call_id: str, text: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def answering(body: Any) -> Any:
    """Return a client whose server gives this answer: a body, or the chunks of a stream."""
    if isinstance(body, list):
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in body) + "data: [DONE]\n\n"
        answer = lambda _: httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})  # noqa: E731
    else:
        answer = lambda _: httpx.Response(200, json=body)  # noqa: E731
    return OpenAI(api_key="x", max_retries=0, http_client=httpx.Client(transport=httpx.MockTransport(answer)))


def chunk(delta: dict[str, Any], ends: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": ends}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


@pytest.mark.parametrize("protocol", ["responses", "responses streamed", "chat"])
def test_two_calls_of_one_id_are_refused_as_nobody_could_tell_them_apart(protocol, plane, client, model, monkeypatch):
    monkeypatch.setattr(type(model), "number", lambda self: 1)
    model.play(calls(OUT, IN))
    with (
        pytest.raises(TapPassConfigError, match="with the id of another"),
        guard_openai_run(client, on_block="tell") as guarded,
    ):
        if protocol == "chat":
            asked = [{"role": "user", "content": "hi"}]
            guarded.chat.completions.create(model="m", messages=asked, tools=CHAT_TOOLS)
        else:
            list(ask(guarded, "hi", stream="streamed" in protocol))


def test_an_id_that_a_server_uses_again_names_the_call_of_its_own_turn(plane, client, model, monkeypatch):
    monkeypatch.setattr(type(model), "number", lambda self: 1)
    model.play(calls(IN), calls(LOOK))
    with guard_openai_run(client) as guarded:
        given: list[Any] = [{"role": "user", "content": "hi"}]
        for said in ("first", "second, by bob@acme.com"):
            answer = ask(guarded, given)
            given += answer.output
            given += [output(item.call_id, said) for item in answer.output]
        ask(guarded, given)
    outputs = [item["output"] for item in model.seen[-1].body["input"] if item.get("type") == "function_call_output"]
    assert outputs == ["first", "second, by [EMAIL]"]


def test_what_can_be_read_once_is_sent_all_the_same(plane, client, model):
    with guard_openai_run(client) as guarded:
        guarded.chat.completions.create(model="m", messages=({"role": "user", "content": one} for one in "ab"))
        guarded.responses.create(model="m", input=({"role": "user", "content": one} for one in "ab"))
    sent = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    assert [model.seen[0].body["messages"], model.seen[1].body["input"]] == [sent, sent]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_of_compatible_servers_is_read_redacted(name, plane):
    said = {"role": "assistant", "content": "to ann@acme.com", name: "of bob@acme.com"}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    body["choices"] = [{"index": 0, "finish_reason": "stop", "message": said}]
    asked: Any = [{"role": "user", "content": "hi"}]
    with guard_openai_run(answering(body)) as guarded:
        message = guarded.chat.completions.create(model="m", messages=asked).choices[0].message
    assert (message.content, getattr(message, name)) == ("to [EMAIL]", "of [EMAIL]")
    streamed = [
        chunk({name: "of bob@ac"}),
        chunk({name: "me.com"}),
        chunk({"content": "to ann@acme"}),
        chunk({}, "stop"),
    ]
    with guard_openai_run(answering(streamed)) as guarded:
        deltas = [c.choices[0].delta for c in guarded.chat.completions.create(model="m", messages=asked, stream=True)]
    assert "".join(getattr(delta, name, None) or "" for delta in deltas) == "of [EMAIL]"
    assert "".join(delta.content or "" for delta in deltas) == "to ann@acme"


def test_what_was_held_back_comes_after_what_the_last_chunk_says(plane):
    streamed = [chunk({"role": "assistant", "content": "one"}), chunk({"content": " two thr"}, "stop")]
    with guard_openai_run(answering(streamed)) as guarded:
        asked: Any = [{"role": "user", "content": "hi"}]
        seen = guarded.chat.completions.create(model="m", messages=asked, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in seen) == "one two thr"
