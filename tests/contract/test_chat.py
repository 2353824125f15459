"""Chat turns: the same answers, the same errors and the same record, whoever asks the model."""

from __future__ import annotations

import pytest

from tappass import Agent, AsyncAgent, PolicyBlockError, RedactionApplied, TapPassConfigError, TapPassConnectionError
from tests.fake_model import Call, FakeModel, error, text

POLICY = """
    version: 1
    rules:
      - {id: no-zeppelin, llm: '*', when: 'args.prompt.contains("zeppelin")', effect: block, classification: SECRET}
    detect:
      pii: {prompt: redact, result: redact}
      secrets: {result: block}
"""
KEY = "AKIA" + "IOSFODNN7EXAMPLE"


@pytest.fixture
def model(plane):
    with FakeModel() as made:
        plane.policy(POLICY)
        plane.settings(f'[[upstream]]\nmatch = "gpt-*"\nbase_url = "{made.base_url}"\n')
        yield made


async def chat(face, prompt, **options):
    if face.backend == "sync":
        return Agent(**options).chat(prompt)
    return await AsyncAgent(**options).chat(prompt)


async def stream(face, prompt, **options):
    if face.backend == "sync":
        with Agent(**options).stream(prompt) as chunks:
            return list(chunks)
    async with AsyncAgent(**options).stream(prompt) as chunks:
        return [chunk async for chunk in chunks]


def refused(face, kind, prompt, send=chat, **options):
    async def scenario():
        async with face.session():
            with pytest.raises(kind) as caught:
                await send(face, prompt, **options)
            return caught.value

    return face.run(scenario)


def test_a_turn_is_redacted_both_ways_and_says_so(plane, face, model):
    model.add(text("write to bob@acme.com"))

    async def scenario():
        async with face.session() as session:
            return session, await chat(face, "mail ann@acme.com")

    session, reply = face.run(scenario)
    assert (str(reply), reply.model, reply.finish_reason) == ("write to [EMAIL]", "fake-1", "stop")
    assert [(r.kind, r.replacement) for r in reply.redactions] == [("EMAIL", "[EMAIL]")] * 2
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (7, 3, 10)
    for name in ("session_id", "agent_uuid", "pipeline_uuid", "audit_url"):
        assert getattr(reply, name) == getattr(session, name) != ""
    assert model.seen[0].body["messages"] == [{"role": "user", "content": "mail [EMAIL]"}]
    (decided,), (ended,) = plane.events(type="call.decided"), plane.events(type="call.ended")
    assert decided.task_id == ended.task_id == reply.task_id
    assert (ended.status, ended.model, ended.tokens) == ("completed", "fake-1", (7, 3))


@pytest.mark.parametrize("send", [chat, stream])
def test_a_blocked_turn_never_reaches_the_model(plane, face, model, send):
    refusal = refused(face, PolicyBlockError, "a zeppelin", send)
    assert model.seen == []
    assert (refusal.blocked_by, refusal.classification, refusal.ran) == ("no-zeppelin", "SECRET", False)
    assert "`gpt-4o-mini` blocked by rule `no-zeppelin` (policy.yaml:3)" in str(refusal)
    assert str(refusal).endswith(f"nothing ran; see {refusal.audit_url}")
    assert [e.task_id for e in plane.events(type="call.decided")] == [refusal.task_id]


@pytest.mark.parametrize("send", [chat, stream])
def test_a_withheld_answer_says_that_the_model_was_asked(plane, face, model, send):
    model.add(text("the key is ", KEY, " indeed", " and more" * 100))
    refusal = refused(face, PolicyBlockError, "hello", send)
    assert (refusal.blocked_by, refusal.ran) == ("detect.secrets.result", True)
    assert "ran, but its " in str(refusal)
    assert KEY not in str(refusal)


def test_a_redaction_is_an_error_where_that_is_wanted(plane, face, model):
    refusal = refused(face, RedactionApplied, "mail ann@acme.com", raise_on_redaction=True)
    assert refusal.redacted_content == "mail [EMAIL]"
    assert [(r.kind, r.start, r.end) for r in refusal.redactions] == [("EMAIL", 5, 17)]
    assert (refusal.ran, model.seen) == (False, [])


def test_a_streamed_answer_is_redacted_across_pieces_with_ids_on_each(plane, face, model):
    model.add(text("write to b", "ob@ac", "me.com", " or not"))

    async def scenario():
        async with face.session() as session:
            return session, await stream(face, "hello")

    session, chunks = face.run(scenario)
    assert "".join(map(str, chunks)) == "write to [EMAIL] or not"
    (decided,) = plane.events(type="call.decided")
    for chunk in chunks:
        assert (chunk.session_id, chunk.task_id) == (session.session_id, decided.task_id)
        assert chunk.agent_uuid
        assert chunk.pipeline_uuid
        assert chunk.audit_url == session.audit_url
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [10]


def test_tool_calls_arrive_whole_and_in_pieces(plane, face, model):
    call = Call("send_mail", ('{"to": "bob@', 'acme.com", "n": 1}'))
    model.add(text("", calls=(call,)), text("", calls=(call,)))

    async def scenario():
        async with face.session():
            return await chat(face, "one"), await stream(face, "two")

    reply, chunks = face.run(scenario)
    (asked,) = reply.tool_calls
    assert (asked.id, asked.name, asked.index) == ("call_1", "send_mail", 0)
    assert asked.arguments.replace(" ", "") == '{"to":"[EMAIL]","n":1}'
    pieces = [delta for chunk in chunks for delta in chunk.tool_calls]
    assert [piece.name for piece in pieces if piece.name] == ["send_mail"]
    assert "".join(piece.arguments for piece in pieces) == '{"to": "[EMAIL]", "n": 1}'


def test_an_upstream_that_fails_is_told_apart_from_the_plane(plane, face, model):
    model.add(error(429, "rate_limit"))
    refusal = refused(face, TapPassConnectionError, "hello")
    assert "upstream 127.0.0.1" in str(refusal)
    assert "429 (rate_limit)" in str(refusal)
    assert [e.status for e in plane.events(type="call.ended")] == ["failed"]


def test_a_model_that_nobody_serves_and_a_parameter_that_is_not_governed_are_settings_to_change(plane, face, model):
    assert "no [[upstream]]" in str(refused(face, TapPassConfigError, "hello", model="mystery"))

    async def scenario():
        async with face.session():
            with pytest.raises(TapPassConfigError, match="`store` is not governed"):
                if face.backend == "sync":
                    Agent().chat("hello", store=True)
                else:
                    await AsyncAgent().chat("hello", store=True)

    face.run(scenario)
