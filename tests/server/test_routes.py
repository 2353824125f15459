"""Our own routes beside the fixed ones: sessions, endings, the audit API, signed documents, AuthZEN, models."""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tappass.engine.audit.checkpoint import parse
from tappass.engine.audit.keys import PublicKey
from tests.fake_model import Raw, error, text
from tests.server.governed import MAIL, Governed, governed
from tests.server.test_wire import asked, chat, decided


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Governed]:
    with governed(tmp_path_factory.mktemp("served")) as subject:
        yield subject


@pytest.fixture
def client(plane: Governed) -> Iterator[httpx.Client]:
    with plane.client() as client:
        yield client


def opened(client: httpx.Client, **more: Any) -> Any:
    answer = client.post("/sessions", json={"kind": "session", "name": "invoices", "metadata": {}, "mode": "", **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


def types(plane: Governed, session_id: str) -> list[str]:
    return [event["type"] for event in plane.events(session_id=session_id)]


# Sessions


def test_a_session_is_opened_closed_and_opened_again(plane: Governed, client: httpx.Client) -> None:
    session = opened(client, metadata={"customer": 7})
    session_id = session["session_id"]
    assert {"session_id", "task_id", "agent_uuid", "pipeline_uuid", "audit_url"} <= set(session)
    assert (session["status"], session["mode"], session["tier"]) == ("open", "enforce", "standard")
    closed = client.patch(f"/sessions/{session_id}", json={"status": "completed"})
    assert closed.json()["status"] == "completed"
    assert client.patch(f"/sessions/{session_id}", json={"status": "failed"}).json()["status"] == "completed"
    decided(client, asked("read_file", session_id=session_id), 422)
    assert opened(client, id=session_id)["status"] == "open"
    assert decided(client, asked("read_file", session_id=session_id))["outcome"] == "allow"
    assert types(plane, session_id) == ["session.opened", "session.closed", "session.reopened", "call.decided"]


def test_a_proposed_id_is_taken_once(plane: Governed, client: httpx.Client) -> None:
    proposed = f"workflow-{uuid.uuid4()}"
    one, two = opened(client, id=proposed), opened(client, id=proposed)
    assert one == two
    assert types(plane, proposed) == ["session.opened"]
    with plane.client() as other:
        assert other.post("/sessions", json={"id": proposed}).status_code == 422
        assert other.post("/sessions", json={"parent": proposed}).status_code == 422


def test_an_agent_is_who_its_key_says(client: httpx.Client) -> None:
    assert client.post("/sessions", json={"agent": "somebody-else"}).status_code == 422


def test_an_unknown_status_closes_nothing(client: httpx.Client) -> None:
    session_id = opened(client)["session_id"]
    assert client.patch(f"/sessions/{session_id}", json={"status": "vanished"}).status_code == 422
    assert client.get(f"/sessions/{session_id}").json()["status"] == "open"


def test_the_session_of_a_held_call_is_resumed(plane: Governed, client: httpx.Client) -> None:
    session_id = opened(client)["session_id"]
    held = decided(client, asked("pay", {"amount": 400}, session_id=session_id))["approval"]
    client.patch(f"/sessions/{session_id}", json={"status": "suspended"})
    with plane.client() as other:
        assert other.post("/sessions/resume", json={"resume_token": held["resume_token"]}).status_code == 404
    resumed = client.post("/sessions/resume", json={"resume_token": held["resume_token"]})
    assert resumed.status_code == 200
    assert (resumed.json()["session_id"], resumed.json()["status"]) == (session_id, "open")
    assert client.post("/sessions/resume", json={"resume_token": "tp_resume_made-up.0"}).status_code == 422


# Endings

ABLE = {"capabilities": ["scan_result", "redact_arguments"]}


def ending(answer: Any, **more: Any) -> dict[str, Any]:
    ids = {"session_id": answer["session_id"], "task_id": answer["task_id"]}
    return ids | {"status": "completed", "duration_us": 1200, **more}


def test_a_result_is_scanned_and_its_call_settled(plane: Governed, client: httpx.Client) -> None:
    answer = decided(client, asked("crm_find", {"name": "Jane"}, session_id="scan", **ABLE))
    path = f"/v1/govern/{answer['task_id']}/ending"
    sent = ending(answer, scan=answer["obligations"][0], result={"mail": f"it is {MAIL}"})
    settlement = client.post(path, json=sent)
    assert settlement.status_code == 200
    (redaction,) = settlement.json()["redactions"]
    assert (redaction["kind"], redaction["where"], redaction["start"]) == ("EMAIL", "/mail", 6)
    assert client.post(path, json=sent).status_code == 200
    assert types(plane, "scan") == ["session.opened", "call.decided", "call.ended"]
    with plane.client() as other:
        assert other.post(path, json=sent).status_code == 404
    assert client.post("/v1/govern/another/ending", json=sent).status_code == 422


def test_endings_are_delivered_in_batches_once(plane: Governed, client: httpx.Client) -> None:
    answers = [decided(client, asked("read_file", session_id="batch")) for _ in range(3)]
    batch: list[Any] = [
        {"kind": "ending", "ending": ending(answer), "at": "2026-01-31T09:30:00Z"} for answer in answers
    ]
    batch.append({"kind": "close", "session_id": "batch", "status": "completed"})
    first, again = (client.post("/v1/endings", json=batch) for _ in range(2))
    assert (first.status_code, first.json()) == (202, {"accepted": 4, "duplicates": 0})
    assert again.json() == {"accepted": 0, "duplicates": 4}
    assert types(plane, "batch") == ["session.opened", *["call.decided"] * 3, *["call.ended"] * 3, "session.closed"]


# Chat


def test_a_call_is_placed_by_headers(plane: Governed, client: httpx.Client) -> None:
    headers = {"X-TapPass-Session": "placed", "X-TapPass-Task": "task-1"}
    body = client.post("/v1/chat/completions", json=chat("Hi"), headers=headers).json()
    assert (body["session_id"], body["task_id"]) == ("placed", "task-1")
    own = client.post("/v1/chat/completions", json=chat("Hi")).json()
    assert own["session_id"] not in ("", "placed")
    assert types(plane, "placed") == ["session.opened", "call.decided", "call.ended"]


def test_an_approved_turn_is_redeemed_from_another_session(plane: Governed, client: httpx.Client) -> None:
    held = client.post("/v1/chat/completions", json=chat("Hi", model="ask-2")).json()
    plane.approve(held["approval_url"].rpartition("/")[2])
    headers = {"X-TapPass-Session": "elsewhere", "X-TapPass-Resume": held["resume_token"]}
    answer = client.post("/v1/chat/completions", json=chat("Hi", model="ask-2"), headers=headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_fails_is_a_502(plane: Governed, client: httpx.Client, stream: bool) -> None:
    plane.model.add(error(500, "overloaded"))
    answer = client.post("/v1/chat/completions", json=chat("Hi", stream=stream))
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream"


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(plane: Governed, client: httpx.Client) -> None:
    # Longer than what is held back while it may still become something to redact.
    said = json.dumps({"choices": [{"index": 0, "delta": {"content": "la " * 1000}}]}).encode()
    plane.model.add(Raw(body=(b"data: " + said + b"\n\n",), content_type="text/event-stream", cut=True))
    answer = client.post("/v1/chat/completions", json=chat("Hi", stream=True))
    assert answer.status_code == 200
    *_, last = [event for event in answer.text.split("\n\n") if event]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream"
    assert "[DONE]" not in answer.text


def test_a_client_that_leaves_settles_its_call(plane: Governed, client: httpx.Client) -> None:
    never = threading.Event()
    plane.model.add(text("la " * 1000, "two", "three", after={2: never}))
    headers = {"X-TapPass-Session": "left"}
    with client.stream("POST", "/v1/chat/completions", json=chat("Hi", stream=True), headers=headers) as response:
        next(response.iter_lines())
    until = time.monotonic() + 5
    while "call.ended" not in types(plane, "left") and time.monotonic() < until:
        time.sleep(0.05)
    never.set()
    (ended,) = [event for event in plane.events(session_id="left") if event["type"] == "call.ended"]
    assert ended["status"] in ("cancelled", "abandoned")


def test_models_are_what_the_settings_lead_to(client: httpx.Client) -> None:
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    assert [(model["id"], model["object"]) for model in body["data"]] == [("*", "model")]


# What outsiders check


def test_the_audit_api_pages_and_filters(plane: Governed, client: httpx.Client) -> None:
    answers = [decided(client, asked("read_file", session_id="paged")) for _ in range(5)]
    with plane.client(plane.served.admin_key) as admin:
        first = admin.get("/v1/audit/events", params={"session_id": "paged", "limit": 4}).json()
        assert len(first["events"]) == 4
        assert first["next"] == first["events"][-1]["seq"]
        rest = admin.get("/v1/audit/events", params={"session_id": "paged", "limit": 4, "after": first["next"]}).json()
        assert (len(rest["events"]), rest["next"]) == (2, None)
        for name in ("task_id", "agent_uuid", "pipeline_uuid"):
            found = admin.get("/v1/audit/events", params={name: answers[0][name]}).json()["events"]
            assert found
            assert {event.get(name) for event in found} == {answers[0][name]}
        for params in ({"limit": 0}, {"limit": 1001}, {"after": -2}, {"after": 2**70}, {"limit": "many"}):
            assert admin.get("/v1/audit/events", params=params).status_code == 422
    assert client.get("/v1/audit/events").status_code == 403


def test_a_checkpoint_is_signed_and_covers_what_is_recorded(plane: Governed, client: httpx.Client) -> None:
    decided(client, asked("read_file"))
    note = client.get("/v1/checkpoint")
    assert note.headers["content-type"].startswith("text/plain")
    keyid = client.get("/v1/bundle").json()["signatures"][0]["keyid"]
    checkpoint = parse(note.text, PublicKey.parse(keyid))
    assert checkpoint.size >= len(plane.events())


def test_the_policy_in_force_is_signed(client: httpx.Client) -> None:
    envelope = client.get("/v1/bundle").json()
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    (signature,) = envelope["signatures"]
    key = PublicKey.parse(signature["keyid"])
    assert key.verify(signed, base64.b64decode(signature["sig"]))
    assert not key.verify(signed + b" ", base64.b64decode(signature["sig"]))
    assert b"big-payments" in payload
    assert decided(client, asked("read_file"))["pipeline_uuid"].encode() in payload


# AuthZEN


def test_authzen_evaluates_the_same_decision(plane: Governed, client: httpx.Client) -> None:
    agent = decided(client, asked("read_file"))["agent_uuid"]

    def evaluate(tool: str, **properties: Any) -> Any:
        question = {
            "subject": {"type": "agent", "id": agent},
            "action": {"name": "call", "properties": properties},
            "resource": {"type": "tool", "id": tool},
            "context": {"session_id": "authzen"},
        }
        answer = client.post("/access/v1/evaluation", json=question, headers={"X-Request-ID": "r-1"})
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-request-id"] == "r-1"
        return answer.json()

    assert evaluate("read_file", path="a")["decision"] is True
    refused = evaluate("drop_table")
    assert refused["decision"] is False
    assert refused["context"]["error"]["blocked_by"] == "nothing-dropped"
    assert evaluate("crm_find", name="x")["decision"] is False, "nobody there carries out an obligation"
    assert evaluate("pay", amount=300)["context"]["outcome"] == "needs_approval"
    ended = [event for event in plane.events(session_id="authzen") if event["type"] == "call.ended"]
    assert [event["status"] for event in ended] == ["abandoned"]


def test_authzen_speaks_for_its_own_agent_only(client: httpx.Client) -> None:
    question = {
        "subject": {"type": "agent", "id": "somebody-else"},
        "action": {"name": "call"},
        "resource": {"type": "tool", "id": "read_file"},
    }
    assert client.post("/access/v1/evaluation", json=question).status_code == 403


# The short way and the long one


def test_the_shortcut_answers_as_the_route_does(client: httpx.Client) -> None:
    """A charset is enough to be sent the long way."""
    long = {"content-type": "application/json; charset=utf-8"}
    for question in (asked("read_file", {"x": 1}), asked("drop_table"), asked("pay", {"amount": 999})):
        short_answer = client.post("/v1/govern", json=question)
        long_answer = client.post("/v1/govern", content=json.dumps(question), headers=long)
        differs = {"decided_at"} if short_answer.json()["outcome"] == "needs_approval" else set()
        assert {name: value for name, value in short_answer.json().items() if name not in differs} == {
            name: value for name, value in long_answer.json().items() if name not in differs
        }
        assert short_answer.headers["content-type"] == long_answer.headers["content-type"]
    for body in (b"", b"[]", b'{"type": "TOOL_CALL", "payload": {}}', b'{"session_id": "x"}'):
        answers = [
            client.post("/v1/govern", content=body, headers=headers)
            for headers in ({"content-type": "application/json"}, long)
        ]
        assert [answer.status_code for answer in answers] == [422, 422]
        assert answers[0].json() == answers[1].json()


def test_a_large_question_is_decided_all_the_same(client: httpx.Client) -> None:
    assert decided(client, asked("read_file", {"text": "word " * 10_000}))["outcome"] == "allow"
