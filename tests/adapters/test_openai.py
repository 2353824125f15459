"""What is particular to loops around the official client: which ways are governed, and which are refused."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from typing import Any

import anyio
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tappass import ApprovalRequired, PolicyBlockError, TapPassConfigError, current_session, guard_openai_run, resume
from tests.adapters import (
    scripted_responses,  # noqa: F401  a protocol of the scripted model
    scripted_threads,  # noqa: F401  another
)
from tests.adapters.scripted import Say, ScriptedModel, calls
from tests.people import agree

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

POLICY = """
    version: 1
    rules:
      - {id: inside, tool: send, when: '!args.to.endsWith("@acme.com")', effect: block}
      - {id: ask, tool: pay, effect: require_approval}
      - {id: mask-look, tool: look, effect: redact, fields: [result, arguments], kinds: [EMAIL]}
      - {id: mask, llm: '*', effect: redact, fields: [result, prompt], kinds: [EMAIL]}
"""
OUT, IN = ("send", {"to": "eve@evil.example"}), ("send", {"to": "acme@acme.com"})
LOOK = ("look", {"text": "of ann@acme.com"})


def function(name: str, argument: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {argument: {"type": "string"}}}
    return {"type": "function", "name": name, "parameters": schema, "strict": False}


TOOLS: list[Any] = [function("send", "to"), function("look", "text")]
CHAT_TOOLS: list[Any] = [{"type": "function", "function": {k: v for k, v in t.items() if k != "type"}} for t in TOOLS]


@pytest.fixture
def plane(tappass_plane: Any) -> Any:
    tappass_plane.policy(POLICY)
    return tappass_plane


@pytest.fixture
def model() -> Any:
    with ScriptedModel() as made:
        yield made


@pytest.fixture
def client(model: ScriptedModel) -> Any:
    with OpenAI(base_url=f"{model.url}/v1", api_key="x", max_retries=0) as made:
        yield made


def decided(plane: Any) -> list[tuple[str, str]]:
    return [(e.name, e.outcome) for e in plane.events(type="call.decided") if e.kind == "tool"]


def ended(plane: Any) -> list[str]:
    tasks = {e.task_id for e in plane.events(type="call.decided") if e.kind == "tool"}
    return [e.status for e in plane.events(type="call.ended") if e.task_id in tasks]


def ask(guarded: Any, given: Any, **more: Any) -> Any:
    return guarded.responses.create(model="m", input=given, tools=TOOLS, **more)


def output(call_id: str, text: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def test_it_is_a_client_and_has_its_session(plane, client, model):
    with guard_openai_run(client) as guarded:
        assert isinstance(guarded, OpenAI)
        assert guarded.session is current_session()
        assert str(guarded.base_url) == str(client.base_url)
        assert guarded.api_key == "x"


def test_prompts_are_sent_and_answers_read_redacted(plane, client, model):
    model.play(Say(("ask bob@acme.com", "")))
    with guard_openai_run(client) as guarded:
        answer = guarded.responses.create(model="m", instructions="you are eve@acme.com", input="to ann@acme.com")
    assert answer.output_text == "ask [EMAIL]"
    assert model.seen[0].body == {"model": "m", "instructions": "you are [EMAIL]", "input": "to [EMAIL]"}


def test_what_needs_no_redaction_is_sent_as_it_was_given(plane, client, model):
    given = [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]
    with guard_openai_run(client) as guarded:
        ask(guarded, given, temperature=0.5, metadata={"a": "b"})
    client.responses.create(model="m", input=given, tools=TOOLS, temperature=0.5, metadata={"a": "b"})
    assert model.seen[0].body == model.seen[1].body


def test_calls_are_decided_before_the_caller_sees_them_and_settled_when_handed_in(plane, client, model):
    model.play(calls(LOOK))
    with guard_openai_run(client) as guarded:
        answer = ask(guarded, "hi")
        (item,) = answer.output
        assert json.loads(item.arguments) == {"text": "of [EMAIL]"}
        assert ended(plane) == []
        history = [{"role": "user", "content": "hi"}, item, output(item.call_id, "by bob@acme.com")]
        ask(guarded, history)
        assert ended(plane) == ["completed"]
        ask(guarded, [*history, {"role": "user", "content": "more"}])
    for request in model.seen[1:]:
        assert "bob@acme.com" not in request.text
        assert "by [EMAIL]" in request.text
    assert ended(plane) == ["completed"]


def test_a_call_that_is_never_handed_in_shows_as_abandoned(plane, client, model):
    model.play(calls(IN))
    with guard_openai_run(client) as guarded:
        ask(guarded, "hi")
    del guarded
    gc.collect()
    assert ended(plane) == ["abandoned"]


def test_a_refused_call_among_others_is_told_beside_their_outputs(plane, client, model):
    model.play(calls(IN, OUT))
    with guard_openai_run(client, on_block="tell") as guarded:
        answer = ask(guarded, "hi")
        (item,) = answer.output
        assert json.loads(item.arguments) == IN[1]
        ask(guarded, [{"role": "user", "content": "hi"}, *answer.output, output(item.call_id, "sent")])
    kinds = [one.get("type", "message") for one in model.seen[1].body["input"]]
    assert kinds == ["message", "function_call", "function_call", "function_call_output", "function_call_output"]
    assert sum("Not done: " in str(one) for one in model.seen[1].body["input"]) == 1


def test_a_refused_call_is_told_to_a_server_that_keeps_the_conversation_once(plane, client, model):
    model.play(calls(IN, OUT))
    with guard_openai_run(client, on_block="tell") as guarded:
        answer = ask(guarded, "hi")
        (item,) = answer.output
        second = ask(guarded, [output(item.call_id, "sent")], previous_response_id=answer.id)
        ask(guarded, "more", previous_response_id=second.id)
    assert [one["type"] for one in model.seen[1].body["input"]] == ["function_call_output"] * 2
    assert model.seen[2].body["input"] == "more"


def test_a_chat_is_told_of_a_refused_call_with_the_call_itself(plane, client, model):
    model.play(calls(IN, OUT))
    with guard_openai_run(client, on_block="tell") as guarded:
        messages: list[Any] = [{"role": "user", "content": "hi"}]
        message = guarded.chat.completions.create(model="m", messages=messages, tools=CHAT_TOOLS).choices[0].message
        (item,) = message.tool_calls
        messages += [message, {"role": "tool", "tool_call_id": item.id, "content": "sent"}]
        guarded.chat.completions.create(model="m", messages=messages, tools=CHAT_TOOLS)
    sent = model.seen[1].body["messages"]
    assert len(sent[1]["tool_calls"]) == 2
    assert {one["tool_call_id"] for one in sent[2:]} == {one["id"] for one in sent[1]["tool_calls"]}


def test_a_model_that_asks_for_nothing_but_what_is_refused_comes_to_an_end(plane, client, model):
    model.play(*[calls(OUT)] * 20)
    with pytest.raises(TapPassConfigError, match="16 times in a row"), guard_openai_run(client, on_block="tell") as g:
        ask(g, "hi")
    assert len(model.seen) == 16


@pytest.mark.parametrize("helper", [False, True])
def test_no_piece_of_a_call_is_seen_before_it_is_decided(helper, plane, client, model):
    model.play(calls(OUT))
    seen = []
    with pytest.raises(PolicyBlockError), guard_openai_run(client) as guarded:
        if helper:
            with guarded.responses.stream(model="m", input="hi", tools=TOOLS) as stream:
                seen += list(map(str, stream))
        else:
            for event in ask(guarded, "hi", stream=True):
                seen.append(str(event))
    assert not any("eve" in text for text in seen)


def test_no_piece_of_a_chats_call_is_seen_before_it_is_decided(plane, client, model):
    model.play(calls(OUT))
    seen = []
    with pytest.raises(PolicyBlockError), guard_openai_run(client) as guarded:
        for chunk in guarded.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], tools=CHAT_TOOLS, stream=True
        ):
            seen.append(str(chunk))
    assert not any("eve" in text for text in seen)


def test_redacted_arguments_are_streamed_redacted(plane, client, model):
    model.play(calls(LOOK))
    with guard_openai_run(client) as guarded:
        events = list(ask(guarded, "hi", stream=True))
    assert not any("ann@acme.com" in str(event) for event in events)
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert json.loads(done.arguments) == {"text": "of [EMAIL]"}


@pytest.mark.parametrize("protocol", ["responses", "chat"])
def test_text_is_redacted_as_it_streams(protocol, plane, client, model):
    model.play(Say(("ask ", "bob@ac", "me.com", " first")))
    with guard_openai_run(client) as guarded:
        if protocol == "responses":
            events = list(ask(guarded, "hi", stream=True))
            shown = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        else:
            events = list(
                guarded.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
            )
            shown = "".join(e.choices[0].delta.content or "" for e in events if e.choices)
    assert shown == "ask [EMAIL] first"
    assert not any("bob@acme.com" in str(event) for event in events)


@pytest.mark.parametrize("how", ["closed", "dropped", "after the block"])
def test_a_stream_that_is_left_closes_its_session(how, plane, client, model):
    with guard_openai_run(client) as guarded:
        stream = ask(guarded, "hi", stream=True)
        next(stream)
    assert plane.events(type="session.closed") == []
    if how == "closed":
        stream.close()
    elif how == "after the block":
        assert list(stream)[-1].type == "response.completed"
    del stream
    gc.collect()
    assert [e.status for e in plane.events(type="session.closed")] == ["completed"]
    (status,) = [e.status for e in plane.events(type="call.ended")]
    assert status == ("completed" if how == "after the block" else "abandoned")


def test_an_approval_is_raised_and_the_loop_goes_on_inside_resume(plane, client, model):
    pay = [function("pay", "to")]
    model.play(calls(("pay", {"to": "ann"})), calls(("pay", {"to": "ann"})))
    with pytest.raises(ApprovalRequired) as caught, guard_openai_run(client) as guarded:
        guarded.responses.create(model="m", input="hi", tools=pay)
    assert [e.status for e in plane.events(type="session.closed")] == ["suspended"]
    agree(plane.plane.engine)
    with resume(caught.value.resume_token), guard_openai_run(client) as guarded:
        (item,) = guarded.responses.create(model="m", input="hi", tools=pay).output
        assert guarded.responses.create(model="m", input=[output(item.call_id, "ok")], tools=pay).output_text


@pytest.mark.parametrize(
    "way",
    [
        lambda c: c.with_raw_response,
        lambda c: c.with_streaming_response,
        lambda c: c.post("/responses", cast_to=object),
        lambda c: c.request,
        lambda c: c.completions,
        lambda c: c.embeddings,
        lambda c: c.images,
        lambda c: c.audio,
        lambda c: c.batches,
        lambda c: c.realtime,
        lambda c: c.conversations,
        lambda c: c.responses.with_raw_response,
        lambda c: c.responses.with_streaming_response,
        lambda c: c.responses.retrieve("resp_1"),
        lambda c: c.responses.input_items,
        lambda c: c.chat.with_raw_response,
        lambda c: c.chat.completions.with_raw_response,
        lambda c: c.chat.completions.list(),
        lambda c: (
            c.beta.with_raw_response if hasattr(type(c.beta.__wrapped__), "with_raw_response") else c.beta.chatkit
        ),
        lambda c: c.beta.threads.create_and_run,
        lambda c: c.beta.threads.runs.stream,
        lambda c: c.beta.threads.runs.list,
        lambda c: c.beta.threads.runs.steps,
        lambda c: c.beta.threads.runs.with_raw_response,
        lambda c: c.beta.threads.runs.create("t", assistant_id="a", stream=True),
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
    ],
)
def test_every_other_way_is_refused(way, plane, client, model):
    with guard_openai_run(client) as guarded, pytest.raises(TapPassConfigError):
        way(guarded)
    assert model.seen == []


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://x"}]},
        {"tools": [{"type": "custom", "name": "x"}]},
        {"background": True},
        {"extra_body": {"tools": [{"type": "web_search"}]}},
    ],
)
def test_what_would_run_undecided_is_refused_before_the_model_is_asked(more, plane, client, model):
    with guard_openai_run(client) as guarded, pytest.raises(TapPassConfigError, match="was not asked"):
        guarded.responses.create(model="m", input="hi", **more)
    assert model.seen == []


def test_clients_with_other_options_are_governed_by_the_same_guard(plane, client, model):
    model.play(calls(OUT))
    with pytest.raises(PolicyBlockError), guard_openai_run(client) as guarded:
        ask(guarded.with_options(timeout=3).copy(max_retries=0), "hi")


def test_a_client_is_of_no_use_once_its_guard_has_ended(plane, client, model):
    with guard_openai_run(client) as guarded:
        pass
    with pytest.raises(TapPassConfigError, match="has ended"):
        ask(guarded, "hi")
    assert model.seen == []


def test_a_function_gets_its_clients_governed(plane, client, model):
    @guard_openai_run(name="mail")
    def work(first: OpenAI, *, second: OpenAI) -> list[str]:
        return [ask(one, "hi").output_text for one in (first, second)]

    assert work(client, second=client) == ["all done"] * 2
    assert len(plane.events(type="session.opened")) == 1
    assert [e.kind for e in plane.events(type="call.decided")] == ["llm", "llm"]


def test_without_a_client_and_without_agents_there_is_nothing_to_govern(plane, monkeypatch):
    monkeypatch.setattr("tappass_adapters.openai.guard.has_agents", lambda: False)

    @guard_openai_run()
    def work(x: int) -> int:
        return x

    with pytest.raises(TapPassConfigError, match="found nothing to govern"):
        work(1)


def test_the_same_in_async(plane, model):
    async def main() -> None:
        async with AsyncOpenAI(base_url=f"{model.url}/v1", api_key="x", max_retries=0) as client:
            async with guard_openai_run(client) as guarded:
                assert (await guarded.responses.create(model="m", input="to ann@acme.com")).output_text == "all done"
                stream = await guarded.with_options(timeout=5).responses.create(model="m", input="hi", stream=True)
            async with stream:
                assert [event async for event in stream][-1].type == "response.completed"

    anyio.run(main)
    assert model.seen[0].body["input"] == "to [EMAIL]"
    assert [e.status for e in plane.events(type="session.closed")] == ["completed"]


def test_what_is_parsed_is_parsed_of_what_may_be_seen(plane, client, model):
    class Mail(BaseModel):
        to: str

    model.play(Say(('{"to": "bob@acme.com"}',)))
    with guard_openai_run(client) as guarded:
        answer = guarded.responses.parse(model="m", input="hi", text_format=Mail)
    assert answer.output_parsed == Mail(to="[EMAIL]")


def test_threads_with_hosted_tools_are_refused_before_the_run_begins(plane, client, model):
    model.__dict__["threads"] = {"messages": [], "runs": {}, "tools": [{"type": "code_interpreter"}]}
    with guard_openai_run(client) as guarded, pytest.raises(TapPassConfigError, match="code_interpreter"):
        guarded.beta.threads.runs.create("thread_1", assistant_id="asst_1")
    assert model.seen == []


def test_a_thread_that_may_only_be_read_redacted_is_not_run(plane, client, model):
    with pytest.raises(PolicyBlockError, match="cannot be given others"), guard_openai_run(client) as guarded:
        guarded.beta.threads.messages.create("thread_1", role="user", content="to ann@acme.com")
        guarded.beta.threads.runs.create("thread_1", assistant_id="asst_1")
    assert model.seen == []


def test_what_a_run_said_that_may_only_be_seen_redacted_is_not_handed_over(plane, client, model):
    model.play(Say(("ask bob@acme.com",)))
    with pytest.raises(PolicyBlockError, match="cannot be given another"), guard_openai_run(client) as guarded:
        guarded.beta.threads.runs.create_and_poll(thread_id="thread_1", assistant_id="asst_1", poll_interval_ms=1)
