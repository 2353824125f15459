"""A client that knows only the fixed part of the wire: raw HTTP, hand-written JSON, nothing of ours."""

from __future__ import annotations

import json
import re
import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.fake_model import Call, text
from tests.people import ADA
from tests.postgres import fresh_database
from tests.server.governed import MAIL, STRICT, Governed, governed

CORRELATION = ("session_id", "task_id", "agent_uuid", "pipeline_uuid", "audit_url")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Governed]:
    with ExitStack() as stack:
        database = stack.enter_context(fresh_database()) if request.param == "postgresql" else ""
        yield stack.enter_context(governed(tmp_path_factory.mktemp("served"), database=database))


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Governed]:
    with governed(tmp_path_factory.mktemp("strict"), settings=STRICT) as subject:
        yield subject


@pytest.fixture
def client(plane: Governed) -> Iterator[httpx.Client]:
    with plane.client() as client:
        yield client


def asked(tool: str, args: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "type": "TOOL_CALL",
        "agent_id": "",
        "session_id": "",
        "org_id": "",
        "behavior_id": f"bhv-{uuid.uuid4()}",
        "payload": {"tool": tool, "args": args or {}, "server": None},
        **more,
    }


def decided(client: httpx.Client, question: dict[str, Any], status: int = 200) -> Any:
    answer = client.post("/v1/govern", json=question)
    assert answer.status_code == status, answer.text
    return answer.json()


def correlated(body: Any) -> None:
    """The five fields are there; `task_id` too, since each of these is about one call."""
    assert all(isinstance(body[name], str) and body[name] for name in CORRELATION), body
    uuid.UUID(body["agent_uuid"])
    uuid.UUID(body["pipeline_uuid"])
    assert body["audit_url"].endswith(f"/sessions/{body['session_id']}")


def test_health(plane: Governed) -> None:
    answer = httpx.get(f"{plane.served.url}/health")
    body = answer.json()
    assert answer.status_code == 200
    assert set(body) >= {"status", "version", "storage", "agents", "uptime_seconds"}
    assert tuple(map(int, body["version"].split("."))) >= (0, 6, 0)
    assert body["storage"] in plane.house.url


def test_an_agent_is_registered_and_shown(plane: Governed) -> None:
    made = plane.register("bookkeeper")
    assert made["agent_id"] == "bookkeeper"
    assert made["api_key"].startswith("tp_")
    with plane.client(plane.served.admin_key) as admin:
        shown = admin.get(f"/agents/{made['agent_uuid']}").json()
    fields = {"agent_uuid", "agent_id", "org_id", "framework", "description", "active", "registered_at", "trust_tier"}
    assert set(shown) >= fields
    assert (shown["agent_uuid"], shown["active"], shown["trust_tier"]) == (made["agent_uuid"], True, "standard")


def test_an_allowed_call(client: httpx.Client) -> None:
    question = asked("read_file", {"path": "a.txt"})
    body = decided(client, question)
    correlated(body)
    assert body["outcome"] == "allow"
    assert body["behavior_id"] == body["task_id"] == question["behavior_id"]
    assert body["pipeline_id"] == body["pipeline_uuid"]
    assert TIME.fullmatch(body["decided_at"])
    assert (body["obligations"], body["mandate"], body["approval"], body["error"]) == ([], None, None, None)
    assert isinstance(body["reason"], str)
    assert isinstance(body["details"], dict)


def test_a_block(client: httpx.Client) -> None:
    body = decided(client, asked("drop_table", {"name": "users"}))
    correlated(body)
    assert body["outcome"] == "block"
    assert body["reason"]
    assert body["details"]["blocking_step"] == "nothing-dropped"
    assert body["error"]["decision"] == "policy_block"
    assert (body["error"]["blocked_by"], body["error"]["classification"]) == ("nothing-dropped", "CONFIDENTIAL")
    assert isinstance(body["error"]["details"], dict)


def test_a_tier_that_is_too_low(client: httpx.Client) -> None:
    body = decided(client, asked("delete_user", {"id": 7}))
    assert body["outcome"] == "block"
    assert body["error"] == {
        "decision": "trust_tier_denied",
        "required_tier": "trusted",
        "actual_tier": "standard",
    }


@pytest.mark.parametrize("kind", ["STATE_TRANSITION", "SYSTEM_OF_RECORD_WRITE", "CODE_EXEC", "CREDENTIAL_ACCESS"])
def test_other_actions_are_governed_by_their_name(client: httpx.Client, kind: str) -> None:
    body = decided(client, asked("", type=kind, payload={"what": {"ever": [1, 2.5, None]}}))
    assert body["outcome"] == ("block" if kind == "CODE_EXEC" else "allow")


def test_a_model_call_is_decided(client: httpx.Client) -> None:
    payload = {"prompt": "Hello", "model": "plain-1", "tools": [], "sampling": {"temperature": 0.1}}
    assert decided(client, asked("", type="LLM_CALL", payload=payload))["outcome"] == "allow"
    body = decided(client, asked("", type="LLM_CALL", payload=payload | {"prompt": "the zeppelin plans"}))
    assert body["details"]["blocking_step"] == "no-zeppelin"


def test_who_declares_no_capabilities_gets_no_yes_that_depends_on_an_obligation(client: httpx.Client) -> None:
    body = decided(client, asked("crm_find", {"name": "Jane"}))
    assert body["outcome"] in ("block", "needs_approval")
    assert body["obligations"] == []
    able = decided(client, asked("crm_find", {"name": "Jane"}, capabilities=["scan_result", "redact_arguments"]))
    assert able["outcome"] == "allow"
    assert [each["kind"] for each in able["obligations"]] == ["scan_result"]


def test_a_held_call_is_redeemed_once(plane: Governed, client: httpx.Client) -> None:
    first = decided(client, asked("pay", {"amount": 500}, session_id="invoices"))
    correlated(first)
    assert first["outcome"] == "needs_approval"
    held = first["approval"]
    assert set(held) >= {"request_id", "fingerprint", "tier", "expires_at", "approval_url", "resume_token"}
    assert all(isinstance(value, str) and value for value in held.values())
    assert held["tier"] == "standard"
    assert held["approval_url"].endswith(f"/approvals/{held['request_id']}")
    assert first["error"] == {
        "decision": "approval_required",
        **{name: held[name] for name in ("approval_url", "resume_token", "expires_at")},
    }
    again = decided(client, asked("pay", {"amount": 500}, session_id="invoices"))
    assert again["approval"]["request_id"] == held["request_id"]
    plane.approve(held["request_id"])
    row = client.get(f"/v1/me/approvals/{held['request_id']}").json()
    assert (row["state"], row["decided_by"]) == ("approved", "ada")
    assert TIME.fullmatch(row["decided_at"])
    assert decided(client, asked("pay", {"amount": 501}, session_id="invoices"))["outcome"] == "needs_approval"
    assert decided(client, asked("pay", {"amount": 500}))["outcome"] == "needs_approval", "another session"
    assert decided(client, asked("pay", {"amount": 500}, session_id="invoices"))["outcome"] == "allow"
    assert decided(client, asked("pay", {"amount": 500}, session_id="invoices"))["outcome"] == "needs_approval"


def test_of_eight_identical_calls_at_once_one_redeems(plane: Governed, client: httpx.Client) -> None:
    held = decided(client, asked("pay", {"amount": 700}, session_id="race"))["approval"]
    plane.approve(held["request_id"])
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda _: decided(client, asked("pay", {"amount": 700}, session_id="race")), range(8))
        outcomes = [answer["outcome"] for answer in answers]
    assert sorted(outcomes) == ["allow"] + ["needs_approval"] * 7
    assert [e["approval_id"] for e in plane.events(session_id="race") if e["type"] == "approval.redeemed"] == [
        held["request_id"]
    ]


def test_the_same_question_eight_times_is_one_decision(plane: Governed, client: httpx.Client) -> None:
    held = decided(client, asked("pay", {"amount": 900}, session_id="replay"))["approval"]
    plane.approve(held["request_id"])
    question = asked("pay", {"amount": 900}, session_id="replay")
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: decided(client, question), range(8)))
    assert {answer["outcome"] for answer in answers} == {"allow"}
    decisions = plane.events(session_id="replay", task_id=question["behavior_id"])
    assert [e["type"] for e in decisions if e["type"] in ("approval.redeemed", "call.decided")] == [
        "approval.redeemed",
        "call.decided",
    ]


def test_a_resume_token_redeems_anywhere(plane: Governed, client: httpx.Client) -> None:
    held = decided(client, asked("pay", {"amount": 800}, session_id="here"))["approval"]
    plane.approve(held["request_id"])
    elsewhere = asked("pay", {"amount": 800}, session_id="there")
    assert decided(client, elsewhere | {"resume_token": held["resume_token"]})["outcome"] == "allow"
    used = asked("pay", {"amount": 800}, session_id="there", resume_token=held["resume_token"])
    assert decided(client, used)["outcome"] != "allow"


def test_allow_and_block_are_replayed_and_another_body_is_422(plane: Governed, client: httpx.Client) -> None:
    for tool in ("read_file", "drop_table"):
        question = asked(tool, {"path": "a"}, session_id="replayed")
        first = decided(client, question)
        assert decided(client, question) == first
        body = decided(client, question | {"payload": {"tool": tool, "args": {"path": "b"}, "server": ""}}, 422)
        assert "behavior_id" in body["detail"]
    types = [e["type"] for e in plane.events(session_id="replayed")]
    assert types == ["session.opened", "call.decided", "call.decided"]


def test_a_session_of_another_key_is_refused_and_an_unknown_one_is_opened(plane: Governed) -> None:
    with plane.client() as one, plane.client() as other:
        body = decided(one, asked("read_file", session_id="mine"))
        assert body["session_id"] == "mine"
        refused = decided(other, asked("read_file", session_id="mine"), 404)
        unknown = other.get("/sessions/nobody's").json()
        assert refused["detail"].replace("mine", "X") == unknown["detail"].replace("nobody's", "X")
        for method, path, body in (
            ("GET", "/sessions/mine", None),
            ("PATCH", "/sessions/mine", {"status": "completed"}),
        ):
            assert other.request(method, path, json=body).status_code == 404
        assert one.get("/sessions/mine").json()["status"] == "open"
        headers = {"X-TapPass-Session": "mine"}
        assert other.post("/v1/chat/completions", json=chat("Hello"), headers=headers).status_code == 404


def test_without_a_session_calls_are_in_the_keys_own(client: httpx.Client) -> None:
    one, two = decided(client, asked("read_file")), decided(client, asked("read_file"))
    assert one["session_id"] == two["session_id"] != ""


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"type": "TELEPATHY"}, "type"),
        ({"type": 7}, "type"),
        ({"payload": {"args": {}}}, "tool"),
        ({"payload": []}, "payload"),
        ({"payload": {"tool": "x", "args": []}}, "args"),
        ({"session_id": 7}, "session_id"),
        ({"behavior_id": None}, "behavior_id"),
    ],
)
def test_a_malformed_question_is_422_and_names_the_field(client: httpx.Client, change: Any, field: str) -> None:
    body = decided(client, asked("read_file") | change, 422)
    assert field in body["detail"]
    assert field in (body["error"]["param"] or field)


def test_a_bad_key(plane: Governed) -> None:
    for key, status in (("tp_wrong", 401), ("", 401), (plane.served.admin_key, 403)):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = httpx.post(f"{plane.served.url}/v1/govern", json=asked("read_file"), headers=headers)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]


# Approvals


def test_waiting_ends_within_a_second_of_the_decision(plane: Governed, client: httpx.Client) -> None:
    held = decided(client, asked("pay", {"amount": 1000}, session_id="wait"))["approval"]
    path = f"/v1/me/approvals/{held['request_id']}"
    still = client.get(f"{path}/wait", params={"timeout_seconds": 0})
    assert still.status_code == 408
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.get, f"{path}/wait", params={"timeout_seconds": 20})
        time.sleep(0.3)
        decided_at = time.monotonic()
        plane.deny(held["request_id"])
        answer = waiting.result(15)
    assert time.monotonic() - decided_at < 1
    assert answer.status_code == 200
    assert answer.json()["state"] == "denied"
    assert decided(client, asked("pay", {"amount": 1000}, session_id="wait"))["outcome"] == "block"


@pytest.mark.parametrize("by", ["GET", "POST"])
def test_waiting_ends_when_who_waits_has_gone(plane: Governed, client: httpx.Client, by: str) -> None:
    held = decided(client, asked("pay", {"amount": 1003}))["approval"]
    path, body = f"/v1/me/approvals/{held['request_id']}/wait?timeout_seconds=25", b""
    if by == "POST":
        path, body = "/v1/me/approvals/wait", json.dumps({"resume_token": held["resume_token"]}).encode()
    head = f"{by} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['authorization']}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"

    def ended() -> list[Any]:
        lines = [json.loads(line) for line in plane.served.errors.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("method") == by and line.get("route", "").endswith("/wait")]

    before = len(ended())
    with socket.create_connection(("127.0.0.1", plane.served.port)) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(0.5)
    left_at = time.monotonic()
    while len(ended()) == before:
        assert time.monotonic() - left_at < 5
        time.sleep(0.02)
    assert 400 < ended()[-1]["duration_ms"] < 5000


def test_waiting_longer_than_half_a_minute_is_refused(client: httpx.Client) -> None:
    held = decided(client, asked("pay", {"amount": 1001}))["approval"]
    answer = client.get(f"/v1/me/approvals/{held['request_id']}/wait", params={"timeout_seconds": 31})
    assert answer.status_code == 422


def test_an_approval_is_cancelled_and_listed(plane: Governed, client: httpx.Client) -> None:
    held = decided(client, asked("pay", {"amount": 1002}))["approval"]
    path = f"/v1/me/approvals/{held['request_id']}"
    assert [row["request_id"] for row in client.get("/v1/me/approvals").json()] == [held["request_id"]]
    with plane.client() as other:
        assert other.get("/v1/me/approvals").json() == []
        for method, end in (("GET", ""), ("GET", "/wait"), ("POST", "/cancel")):
            assert other.request(method, path + end).status_code == 404
    assert client.post(f"{path}/cancel").json()["state"] == "cancelled"
    assert client.get(path).json()["state"] == "cancelled"
    assert client.get(f"{path}/wait").json()["state"] == "cancelled"
    with pytest.raises(Exception, match="cancelled already"):
        plane.approve(held["request_id"])


# Chat


def chat(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}], **more}


GOVERNED = {
    *CORRELATION,
    *("blocked", "blocked_by", "classification", "steps_run", "total_duration_ms", "steps", "shadow_mode"),
    *("degraded", "degraded_reason", "redactions"),
}


def governed_by(body: Any) -> Any:
    """The `tappass` object has all its fields."""
    told = body["tappass"]
    assert set(told) - {"break_glass"} == GOVERNED
    correlated(told)
    assert {name: told[name] for name in CORRELATION} == {name: body[name] for name in CORRELATION}
    assert (told["blocked"], told["shadow_mode"], told["degraded"]) == (False, False, False)
    assert told["steps_run"] == len(told["steps"])
    for step in told["steps"]:
        assert set(step) == {"step", "action", "detected", "message", "duration_ms"}
    return told


def events_of(response: httpx.Response) -> list[Any]:
    """Read server-sent events as simple clients do: lines of `data: …` until `[DONE]`."""
    lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines), lines
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_chat_answer(plane: Governed, client: httpx.Client) -> None:
    plane.model.add(text("Hello ", "there."))
    answer = client.post("/v1/chat/completions", json=chat("Hi", temperature=0.3, metadata={"a": "b"}))
    body = answer.json()
    assert answer.status_code == 200, body
    assert body["object"] == "chat.completion"
    assert isinstance(body["id"], str)
    assert isinstance(body["created"], int)
    assert body["model"] == "fake-1"
    (choice,) = body["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "Hello there."
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert governed_by(body)["redactions"] == []
    assert plane.model.seen[-1].body["temperature"] == 0.3


def test_what_a_model_must_not_see_or_say_is_redacted_with_the_fact(plane: Governed, client: httpx.Client) -> None:
    plane.model.add(text(f"Write to {MAIL}."))
    body = client.post("/v1/chat/completions", json=chat(f"Who is {MAIL}?")).json()
    assert MAIL not in json.dumps(body)
    assert MAIL not in json.dumps(plane.model.seen[-1].body)
    redactions = governed_by(body)["redactions"]
    assert len(redactions) == 2
    assert all(set(each) == {"kind", "start", "end", "replacement"} for each in redactions)


def test_tool_calls_come_in_openais_shape(plane: Governed, client: httpx.Client) -> None:
    call = Call(name="find", arguments=('{"na', 'me": "x"}'))
    plane.model.add(text("", calls=(call,)), text("", calls=(call,)))
    offered = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
    (choice,) = client.post("/v1/chat/completions", json=chat("Hi", tools=offered)).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"name": "x"}'}}
    ]
    with client.stream("POST", "/v1/chat/completions", json=chat("Hi", tools=offered, stream=True)) as response:
        deltas = [event["choices"][0]["delta"] for event in events_of(response)]
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", [])]
    assert pieces[0]["id"] == "call_1"
    assert pieces[0]["function"]["name"] == "find"
    assert "".join(piece["function"]["arguments"] for piece in pieces) == '{"name": "x"}'
    assert {piece["index"] for piece in pieces} == {0}


@pytest.mark.parametrize("usage", [False, True])
def test_a_streamed_answer(plane: Governed, client: httpx.Client, usage: bool) -> None:
    plane.model.add(text("Hel", "lo ", f"{MAIL}, ", "bye."))
    options = {"stream_options": {"include_usage": True}} if usage else {}
    with client.stream("POST", "/v1/chat/completions", json=chat("Hi", stream=True, **options)) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        events = events_of(response)
    for event in (events[0], events[-1]):
        governed_by(event)
    for event in events:
        assert event["object"] == "chat.completion.chunk"
        assert {name: event[name] for name in CORRELATION} == {name: events[0][name] for name in CORRELATION}
    if usage:
        assert events[-1]["choices"] == []
        assert events[-1]["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        events.pop()
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * (len(events) - 1) + ["stop"]
    said = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert said.startswith("Hello ")
    assert said.endswith(", bye.")
    assert MAIL not in said
    assert [each["kind"] for each in events[-1]["tappass"]["redactions"]] == ["EMAIL"]


def refused(answer: httpx.Response, decision: str, status: int = 403) -> Any:
    """The body of a refusal says which it is, in our words and in OpenAI's and RFC 9457's."""
    body = answer.json()
    assert answer.status_code == status, body
    assert body["decision"] == decision
    correlated(body)
    assert body["message"]
    assert body["reason"]
    assert set(body["error"]) == {"message", "type", "code", "param"}
    assert body["error"]["code"] == decision
    assert body["status"] == status
    assert all(isinstance(body[name], str) and body[name] for name in ("type", "title", "detail"))
    return body


@pytest.mark.parametrize("stream", [False, True])
class TestTheSixErrors:
    """Each of the six ways of saying no, whole and streamed: before a stream begins they are plain answers."""

    def ask(self, client: httpx.Client, prompt: str, stream: bool, options: str = "", **more: Any) -> httpx.Response:
        headers = {"X-TapPass-Options": options} if options else {}
        return client.post("/v1/chat/completions", json=chat(prompt, stream=stream, **more), headers=headers)

    def test_policy_block(self, client: httpx.Client, stream: bool) -> None:
        body = refused(self.ask(client, "the zeppelin plans", stream), "policy_block")
        assert (body["blocked_by"], body["classification"]) == ("no-zeppelin", "SECRET")
        assert isinstance(body["details"], dict)

    def test_redaction_applied(self, client: httpx.Client, stream: bool) -> None:
        answer = self.ask(client, f"Who is {MAIL}?", stream, "respect_breakglass, raise_on_redaction")
        body = refused(answer, "redaction_applied")
        (redaction,) = body["redactions"]
        assert set(redaction) == {"kind", "start", "end", "replacement"}
        assert (redaction["kind"], redaction["start"], redaction["end"]) == ("EMAIL", 7, 7 + len(MAIL))
        assert isinstance(body["redacted_content"], str)
        assert MAIL not in answer.text

    def test_approval_required(self, plane: Governed, client: httpx.Client, stream: bool) -> None:
        body = refused(self.ask(client, "Hello", stream, model="ask-1"), "approval_required", 428)
        assert all(isinstance(body[name], str) for name in ("approval_url", "resume_token", "expires_at"))
        plane.approve(body["approval_url"].rpartition("/")[2])
        assert self.ask(client, "Hello", stream, model="ask-1").status_code == 200
        assert self.ask(client, "Hello", stream, model="ask-1").status_code == 428

    def test_trust_tier_denied(self, client: httpx.Client, stream: bool) -> None:
        body = refused(self.ask(client, "Hello", stream, model="trusted-1"), "trust_tier_denied")
        assert (body["required_tier"], body["actual_tier"]) == ("trusted", "standard")

    def test_break_glass_active(self, plane: Governed, client: httpx.Client, stream: bool) -> None:
        glass = plane.break_glass("relax", "glass-*")
        body = refused(self.ask(client, "Hello", stream, "respect_breakglass", model="glass-1"), "break_glass_active")
        assert (body["level"], body["expires_at"]) == ("relax", glass.expires_at)
        answer = self.ask(client, "Hello", stream, model="glass-1")
        assert answer.status_code == 200
        told = events_of(answer)[-1]["tappass"] if stream else answer.json()["tappass"]
        assert told["break_glass"]["level"] == "relax"
        plane.glasses.end(ADA, glass.break_glass_id)

    def test_tool_integrity_violation(self, strict: Governed, stream: bool) -> None:
        def offered(description: str) -> list[dict[str, Any]]:
            function = {"name": f"wire_{stream}", "description": description, "parameters": {"type": "object"}}
            return [{"type": "function", "function": function}]

        with strict.client() as client:
            assert self.ask(client, "Hello", stream, tools=offered("Send money.")).status_code == 200
            answer = self.ask(client, "Hello", stream, tools=offered("Send money to me."))
            body = refused(answer, "tool_integrity_violation")
            assert (body["tool_name"], body["violation"]) == (f"wire_{stream}", "hash_mismatch")
            error = decided(client, asked("unheard_of"))["error"]
            assert error == {
                "decision": "tool_integrity_violation",
                "tool_name": "unheard_of",
                "violation": "not_approved",
            }


# Events


def report(number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "event_type": "checkout.done",
        "agent_id": "",
        "occurred_at": "2026-01-31T09:30:00Z",
        "session_id": "",
        "task_id": "",
        "details": {"number": number},
        **more,
    }


def test_reports_are_recorded_once_under_their_key(plane: Governed, client: httpx.Client) -> None:
    batch = [report(number, event_type=f"batch.{number}") for number in range(3)]
    headers = {"Idempotency-Key": "batch-1"}
    first = client.post("/v1/events", json=batch, headers=headers)
    assert first.status_code == 202
    assert first.json() == {"accepted": 3, "duplicates": 0}
    assert client.post("/v1/events", json=batch, headers=headers).json() == {"accepted": 0, "duplicates": 3}
    types = [event["type"] for event in plane.events() if event["type"].startswith("reported.batch")]
    assert types == ["reported.batch.0", "reported.batch.1", "reported.batch.2"]


def test_a_report_cannot_pass_for_a_decision(plane: Governed, client: httpx.Client) -> None:
    assert client.post("/v1/events", json=[report(event_type="approval.granted", task_id="forged")]).status_code == 202
    assert [event["type"] for event in plane.events(task_id="forged")] == ["reported.approval.granted"]


def test_events_are_acknowledged_only_when_durable(tmp_path_factory: pytest.TempPathFactory) -> None:
    with governed(tmp_path_factory.mktemp("killed")) as plane:
        with plane.client() as client:
            for number in range(20):
                batch = [report(number, event_type=f"kept.{number}") for _ in range(50)]
                assert client.post("/v1/events", json=batch).json()["accepted"] == 50
        plane.served.kill()
        kept = [event.type for event in plane.plane.engine.store.read.all_events() if "kept" in event.type]
    assert kept == [f"reported.kept.{number}" for number in range(20) for _ in range(50)]
