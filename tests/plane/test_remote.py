"""The remote plane against a server that says anything: what runs, what does not, and what the error says."""

from __future__ import annotations

import gc
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import httpx
import pytest

from tappass import (
    Agent,
    ApprovalRequired,
    AsyncAgent,
    BreakGlassActive,
    PolicyBlockError,
    RedactionApplied,
    TapPassConfigError,
    TapPassConnectionError,
    ToolIntegrityViolation,
    TrustTierDenied,
    resume,
    tappass_session,
    tool,
)
from tappass.plane import retrying
from tappass.plane.connect import connect
from tappass.plane.origin import origin_of
from tappass.plane.remote import RemotePlane
from tappass.session.registry import registry
from tests.plane.answering import HEALTH, KEY, URL, Server, allowed, opened, problem

AWAY = httpx.ConnectError("planted text of the network")


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    """A server that every session of the test asks; nobody sleeps between two tries."""
    monkeypatch.setenv("TAPPASS_URL", URL)
    monkeypatch.setenv("TAPPASS_API_KEY", KEY)
    monkeypatch.setattr(retrying, "DELAYS_S", (0.0, 0.0, 0.0))
    monkeypatch.chdir(tmp_path)
    made = Server()
    origin = origin_of(URL, KEY)
    name = f"{origin.url}#{origin.digest}"
    registry.plane(name, lambda: RemotePlane(origin, tmp_path, transport=httpx.MockTransport(made)))
    yield made
    made.answers |= {"/health": HEALTH, "/v1/endings": lambda entries: {"accepted": len(entries), "duplicates": 0}}
    registry.forget_plane(name)


def remote() -> RemotePlane:
    plane: Any = connect()
    return plane


@tool(name="work_remote")
def work(n: int = 1, note: str = "") -> Any:
    return ["ran", n]


def refused(kind: type[Exception], **options: Any) -> Exception:
    """Call a tool that must not run; return the error."""
    ran: list[int] = []

    @tool(name="must_not_run_remote")
    def careful(text: str = "planted-secret") -> None:
        ran.append(1)

    with tappass_session(**options), pytest.raises(kind) as caught:
        careful()
    assert ran == []
    assert "planted-secret" not in str(caught.value)
    assert KEY not in str(caught.value)
    return caught.value


def delivered(server: Server, count: int) -> list[Any]:
    """Wait until so many entries have come; return them in order."""
    for _ in range(1000):
        if len(entries := [entry for sent in server.to("/v1/endings") for entry in sent]) >= count:
            return entries
        time.sleep(0.01)
    raise AssertionError(f"{len(entries)} of {count} entries were delivered")


# Where a key may go.


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://ann:planted-secret@plane.example", "holds credentials"),
        ("https://tp_planted-secret@plane.example", "holds credentials"),
        ("http://plane.example", "unencrypted"),
        ("http://10.1.2.3:9620", "unencrypted"),
        ("http://127.0.0.1.evil.example", "unencrypted"),
        ("https://plane.example?key=planted-secret", "no url of a plane"),
        ("https://plane.example/#x", "no url of a plane"),
        ("https://", "no url of a plane"),
        ("https://plane.example:port", "cannot be read"),
        ("https://[::1", "cannot be read"),
        ("https://plane.example/a b", "characters"),
        ("https://plane.example\n", "characters"),
    ],
)
def test_a_url_that_no_key_should_go_to_is_refused(url, why):
    with pytest.raises(TapPassConfigError, match=why) as caught:
        connect(url, KEY)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "tp_ä", "tp_a b", "tp_a\nx"])
def test_a_key_that_is_none_is_refused_and_not_shown(key):
    with pytest.raises(TapPassConfigError, match="key") as caught:
        connect(URL, key)
    assert not key or key not in str(caught.value)


def test_plain_http_goes_to_this_machine_and_to_hosts_that_are_named(monkeypatch):
    for url in ("http://127.0.0.1:9620", "http://localhost:9620", "http://[::1]:9620"):
        assert origin_of(url, KEY).is_loopback
    monkeypatch.setenv("TAPPASS_HTTP_HOSTS", "tappass, 10.1.2.3")
    assert origin_of("http://tappass:9620", KEY).name == "tappass:9620"
    with pytest.raises(TapPassConfigError, match="unencrypted"):
        origin_of("http://tappass.evil.example", KEY)


def test_one_plane_for_each_url_and_key_and_no_key_in_any_name(tmp_path):
    first = connect(URL, KEY)
    assert connect("https://PLANE.example:443/", KEY) is first
    assert connect(URL, KEY + "2") is not first
    assert connect(URL + "/under", KEY) is not first
    assert KEY not in repr(first.sync.url) + repr(first.origin) + str(first.outbox.path)  # type: ignore[attr-defined]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "project" / ".tappass").glob("outbox-*")} == {0o600}


def test_the_environments_key_goes_to_the_environments_url_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("TAPPASS_URL", URL)
    monkeypatch.setenv("TAPPASS_API_KEY", KEY)
    assert connect() is connect(URL) is connect(URL, KEY)
    with pytest.raises(TapPassConfigError, match=r"evil\.example needs a key"):
        connect("https://evil.example")
    monkeypatch.delenv("TAPPASS_URL")
    (tmp_path / "project" / "tappass.toml").write_text('url = "https://evil.example"\n')
    for key in (None, KEY):
        with pytest.raises(TapPassConfigError, match="only sent to the url that it was given for"):
            connect(None, key)


def test_a_redirect_is_not_followed(server):
    server.answers["/v1/govern"] = httpx.Response(307, headers={"location": "https://evil.example/?planted-secret"})
    error = refused(TapPassConfigError)
    assert "plane.example redirects to evil.example" in str(error)
    assert {request.url.host for request in server.seen} == {"plane.example"}


def test_the_key_travels_in_one_header_and_stands_in_no_log(server, caplog):
    with caplog.at_level(logging.DEBUG), tappass_session():
        work()
    assert all(
        request.headers.get("authorization") == f"Bearer {KEY}"
        for request in server.seen
        if request.url.path != "/health"
    )
    assert not [request for request in server.seen if KEY in str(request.url)]
    assert KEY not in caplog.text


# What the server must be.


@pytest.mark.parametrize(
    ("health", "kind", "why"),
    [
        (HEALTH | {"version": "0.5.9"}, TapPassConfigError, "version 0.5.9, and this client needs 0.6.0 or later"),
        (HEALTH | {"version": "planted\x1b"}, TapPassConfigError, "no version that can be compared"),
        ({"hello": 1}, TapPassConnectionError, "in a shape that this version does not know"),
        (httpx.Response(404, text="<html>"), TapPassConfigError, "may lead to no control plane"),
        (AWAY, TapPassConnectionError, "plane.example does not answer"),
    ],
)
def test_a_server_that_is_too_old_or_none_is_named_before_anything_runs(health, kind, why, server):
    server.answers["/health"] = health
    with pytest.raises(kind, match=why.replace(".", r"\.")) as caught, tappass_session():
        raise AssertionError("not entered")
    assert "planted text" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert server.to("/sessions") == []
    server.answers["/health"] = HEALTH
    with tappass_session():
        work()
    assert len(server.to("/sessions")) == 1


# Retries.


@pytest.mark.parametrize(
    "trouble",
    [problem(500), problem(502), problem(503), problem(504), problem(429, "slow down", **{"retry-after": "0"}), AWAY,
     httpx.ReadError("x"), httpx.RemoteProtocolError("x"), httpx.ConnectTimeout("x")],
    ids=str,
)  # fmt: skip
def test_a_question_is_asked_again_under_its_own_id(trouble, server):
    server.answers["/v1/govern"] = [trouble, trouble, allowed]
    with tappass_session():
        assert work(3) == ["ran", 3]
    asked = server.to("/v1/govern")
    assert len(asked) == 3
    assert len({question["behavior_id"] for question in asked}) == 1


@pytest.mark.parametrize(
    ("trouble", "kind", "why"),
    [
        (AWAY, TapPassConnectionError, "plane.example does not answer; nothing ran"),
        (httpx.ReadTimeout("x"), TapPassConnectionError, "does not answer; nothing ran"),
        (problem(503, "the disk is full"), TapPassConnectionError, "the disk is full; nothing ran"),
        (problem(429, "slow down", **{"retry-after": "3600"}), TapPassConnectionError, "slow down; nothing ran"),
        (problem(401, "no"), TapPassConfigError, "does not accept this key; nothing ran"),
        (problem(422, "`payload.tool`: expected a name"), TapPassConfigError, "`payload.tool`: expected a name"),
        (httpx.Response(200, text="<html>"), TapPassConnectionError, "in a shape that this version does not know"),
        (httpx.Response(200, content=b"[" * 100_000), TapPassConnectionError, "in a shape"),
        (httpx.Response(200, content=b"\xff\xfe"), TapPassConnectionError, "in a shape"),
    ],
)
def test_without_an_answer_nothing_runs_and_the_error_says_why(trouble, kind, why, server):
    server.answers["/v1/govern"] = trouble
    assert why in str(refused(kind))


def test_a_server_that_keeps_silent_is_not_asked_twice(server):
    server.answers["/v1/govern"] = httpx.ReadTimeout("x")
    refused(TapPassConnectionError)
    assert len(server.to("/v1/govern")) == 1


# Answers that are none.


def test_an_answer_about_another_call_is_no_answer(server):
    for other in ({"task_id": "tsk_other"}, {"session_id": "ses_other"}):
        server.answers["/v1/govern"] = lambda asked, other=other: allowed(asked) | other
        assert "in a shape that this version does not know" in str(refused(TapPassConnectionError))


@pytest.mark.parametrize(
    ("answer", "blocked_by", "why"),
    [
        ({"obligations": [{"kind": "notarise", "by": "x"}]}, "unknown-obligation", "(notarise); nothing ran"),
        ({"obligations": [{"kind": "scan_result", "redact": 3}]}, "unknown-obligation", "nothing ran"),
        ({"outcome": "perhaps"}, "unknown-outcome", "refused with outcome 'perhaps'; nothing ran"),
        ({"error": {"decision": "quota", "x": 1}}, "unknown-outcome", "upgrade tappass"),
        ({"outcome": "block", "reason": "is odd", "error": {"decision": "quota"}}, "block", "is odd; nothing ran"),
        ({"error": {"decision": "policy_block", "blocked_by": "torn"}}, "torn", "nothing ran"),
        ({"break_glass": {"level": 3}}, "unknown-obligation", "nothing ran"),
    ],
)
def test_an_answer_that_says_more_than_this_version_knows_blocks(answer, blocked_by, why, server):
    server.answers["/v1/govern"] = lambda asked: allowed(asked, **answer)
    error = refused(PolicyBlockError)
    assert error.blocked_by == blocked_by  # type: ignore[attr-defined]
    assert why in str(error)


def test_a_session_with_another_id_than_ours_is_none(server):
    server.answers["/sessions"] = lambda asked: opened(asked) | {"session_id": "ses_other"}
    with pytest.raises(TapPassConnectionError, match="no session was opened"), tappass_session():
        raise AssertionError("not entered")


# The six decisions, as error bodies.

IDS = {"session_id": "ses_1", "task_id": "tsk_1", "agent_uuid": "a", "pipeline_uuid": "p", "audit_url": "http://x/1"}
BODIES = [
    (PolicyBlockError, {"decision": "policy_block", "blocked_by": "r", "classification": "SECRET", "details": {}}),
    (
        RedactionApplied,
        {
            "decision": "redaction_applied",
            "redactions": [{"kind": "EMAIL", "start": 0, "end": 3, "replacement": "[EMAIL]"}],
            "redacted_content": "[EMAIL]",
        },
    ),
    (
        ApprovalRequired,
        {"decision": "approval_required", "approval_url": "http://x", "resume_token": "t", "expires_at": "2026"},
    ),
    (TrustTierDenied, {"decision": "trust_tier_denied", "required_tier": "trusted", "actual_tier": "standard"}),
    (BreakGlassActive, {"decision": "break_glass_active", "level": "relax", "expires_at": "2026"}),
    (
        ToolIntegrityViolation,
        {"decision": "tool_integrity_violation", "tool_name": "pay", "violation": "revoked"},
    ),
]


@pytest.mark.parametrize(("kind", "body"), BODIES, ids=lambda it: getattr(it, "__name__", ""))
@pytest.mark.parametrize("ran", [False, True])
def test_an_error_body_becomes_the_exception_it_names(kind, body, ran, server):
    told = body | IDS | {"message": "`gpt` was refused", "reason": "because", "ran": ran}
    server.answers["/v1/chat/completions"] = httpx.Response(403, json=told)

    async def chat() -> None:
        await AsyncAgent().chat("hello")

    for send in (lambda: Agent().chat("hello"), lambda: list(Agent().stream("hello")), lambda: anyio.run(chat)):
        with pytest.raises(kind) as caught:
            send()
        error: Any = caught.value
        assert (str(error), error.reason, error.ran) == ("`gpt` was refused", "because", ran)
        assert {name: getattr(error, name) for name in IDS} == IDS
        for name in body.keys() - {"decision", "details", "redactions"}:
            assert getattr(error, name) == body[name]


def test_a_decision_of_a_kind_to_come_blocks(server):
    server.answers["/v1/chat/completions"] = httpx.Response(418, json={"decision": "quota\x1b", "message": ""} | IDS)
    with pytest.raises(PolicyBlockError, match=r"refused with decision 'quota\\\\x1b'") as caught:
        Agent().chat("hello")
    assert caught.value.blocked_by == "unknown-decision"


# Chat.


def completion(request_session: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "fake-1",
        "choices": [{"index": 0, "message": {"content": "hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        "tappass": IDS | {"session_id": request_session} | more,
    }


def test_a_chat_is_never_sent_twice(server):
    for trouble in (AWAY, problem(500), problem(503), httpx.ReadError("x"), problem(429)):
        server.seen.clear()
        server.answers["/v1/chat/completions"] = trouble
        with pytest.raises(TapPassConnectionError) as caught:
            Agent().chat("planted-secret")
        assert "planted" not in str(caught.value)
        assert len(server.to("/v1/chat/completions")) == 1


def test_an_answer_that_no_plane_has_looked_into_is_none(server):
    server.answers["/v1/chat/completions"] = {"choices": [{"message": {"content": "straight from a model"}}]}
    with pytest.raises(TapPassConnectionError, match="in a shape"):
        Agent().chat("hello")
    server.answers["/v1/chat/completions"] = completion("ses_of_somebody_else")
    with pytest.raises(TapPassConnectionError, match="in a shape"):
        Agent().chat("hello")


def test_a_turn_carries_its_session_its_task_and_what_it_wants_as_errors(server):
    with tappass_session() as session:
        server.answers["/v1/chat/completions"] = completion(session.session_id)
        Agent(raise_on_redaction=True).chat("hello", temperature=0, metadata={"team": "a"})
    (sent,) = [request for request in server.seen if request.url.path == "/v1/chat/completions"]
    assert sent.headers["X-TapPass-Session"] == session.session_id
    assert sent.headers["X-TapPass-Task"].startswith("tsk_")
    assert sent.headers["X-TapPass-Options"] == "respect_breakglass, raise_on_redaction"
    body = json.loads(sent.content)
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert (body["temperature"], body["metadata"]) == (0, {"team": "a"})


def test_a_held_turn_waits_for_people_and_goes_on_with_the_token(server):
    held = {"decision": "approval_required", "approval_url": "u", "resume_token": "tok", "expires_at": "2026"} | IDS
    row = {"request_id": "apr", "session_id": "s", "task_id": "t", "requested_at": "", "expires_at": "",
           "approval_url": ""}  # fmt: skip
    server.answers["/v1/me/approvals/wait"] = [
        problem(408, "pending"), problem(503), row | {"state": "approved"},
    ]  # fmt: skip
    with tappass_session(on_approval="wait") as session:
        server.answers["/v1/chat/completions"] = [httpx.Response(428, json=held), completion(session.session_id)]
        assert str(Agent().chat("hello")) == "hello"
    tokens = [r.headers.get("X-TapPass-Resume") for r in server.seen if r.url.path == "/v1/chat/completions"]
    assert tokens == [None, "tok"]


def events(*bodies: Any, done: bool = True) -> httpx.Response:
    text = "".join(f"data: {json.dumps(body)}\n\n" for body in bodies) + ("data: [DONE]\n\n" if done else "")
    return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_that_is_cut_off_or_goes_wrong_says_so(asynchronous, server):
    def chunk(session_id: str, text: str) -> dict[str, Any]:
        return IDS | {"session_id": session_id, "choices": [{"index": 0, "delta": {"content": text}}]}

    async def collect(got: list[str]) -> None:
        async with AsyncAgent().stream("hello") as stream:
            async for piece in stream:
                got.append(str(piece))

    def read() -> list[str]:
        got: list[str] = []
        if asynchronous:
            anyio.run(collect, got)
        else:
            got += map(str, Agent().stream("hello"))
        return got

    with tappass_session() as session:
        ours = session.session_id
        server.answers["/v1/chat/completions"] = events(chunk(ours, "a"), chunk(ours, "b"))
        assert read() == ["a", "b"]
        for answer, kind in (
            (events(chunk(ours, "a"), done=False), TapPassConnectionError),
            (events(chunk(ours, "a"), {"error": {"message": "upstream x broke off"}}), TapPassConnectionError),
            (events(chunk(ours, "a"), BODIES[0][1] | IDS | {"message": "withheld"}), PolicyBlockError),
            (events(chunk("ses_other", "a")), TapPassConnectionError),
        ):
            server.answers["/v1/chat/completions"] = answer
            with pytest.raises(kind):
                read()


# The outbox.


def test_an_ending_that_nobody_scans_costs_no_request(server):
    with tappass_session():
        work()
        assert [r.url.path for r in server.seen] == ["/health", "/sessions", "/v1/govern"]
    ended, closed = delivered(server, 2)
    assert (ended["kind"], ended["ending"]["status"], closed["kind"], closed["status"]) == (
        "ending",
        "completed",
        "close",
        "completed",
    )
    assert "result" not in ended["ending"]


def test_a_result_that_must_be_scanned_is_shown_to_the_plane_and_redacted(server):
    scan = {"kind": "scan_result", "redact": ["EMAIL"]}
    server.answers["/v1/govern"] = lambda asked: allowed(asked, obligations=[scan])
    server.answers["scan"] = {
        "redactions": [{"kind": "EMAIL", "start": 0, "end": 12, "replacement": "[EMAIL]", "where": "/1"}]
    }

    @tool(name="mail_remote")
    def mail() -> list[str]:
        return ["to", "ann@acme.com"]

    with tappass_session():
        assert mail() == ["to", "[EMAIL]"]


@pytest.mark.parametrize("trouble", [AWAY, problem(500), problem(422, "is odd"), {"redactions": 3}])
def test_a_result_that_cannot_be_scanned_is_withheld_and_the_call_is_on_record(trouble, server):
    scan = {"kind": "scan_result", "redact": ["EMAIL"]}
    server.answers["/v1/govern"] = lambda asked: allowed(asked, obligations=[scan])
    server.answers["scan"] = trouble

    @tool(name="mail_withheld")
    def mail() -> str:
        return "planted-secret"

    with tappass_session(), pytest.raises((TapPassConnectionError, TapPassConfigError)) as caught:
        mail()
    assert "planted-secret" not in str(caught.value)
    ended = delivered(server, 1)[0]["ending"]
    assert ended["withheld"] is True
    assert "planted-secret" not in json.dumps(ended)


def test_a_full_outbox_refuses_new_calls_and_says_so(server, monkeypatch):
    remote().outbox.limit = 2
    server.answers["/v1/endings"] = problem(500)
    with tappass_session():
        work()
        work()
        with pytest.raises(TapPassConnectionError, match=r"outbox-\w+\.db is full: 2 endings wait") as caught:
            work()
        assert "nothing ran" in str(caught.value)
        assert "TAPPASS_OUTBOX_LIMIT" in str(caught.value)
        asked = len(server.to("/v1/govern"))
        server.answers["/v1/endings"] = lambda entries: {"accepted": len(entries), "duplicates": 0}
        delivered(server, 2)
        remote().delivery.wait_for(2, 5)
        assert work(7) == ["ran", 7]
        assert len(server.to("/v1/govern")) == asked + 1


def test_a_disk_that_takes_no_ending_lets_no_further_call_run_and_loses_nothing(server, monkeypatch):
    import sqlite3

    plane = remote()
    real = plane.outbox._open

    def full() -> Any:
        raise sqlite3.OperationalError("database or disk is full")

    with tappass_session():
        monkeypatch.setattr(plane.outbox, "_open", full)
        assert work(1) == ["ran", 1]
        with pytest.raises(TapPassConnectionError, match="cannot be written"):
            work(2)
        monkeypatch.setattr(plane.outbox, "_open", real)
        assert work(3) == ["ran", 3]
    entries = delivered(server, 3)
    assert [entry["kind"] for entry in entries] == ["ending", "ending", "close"]


def test_closing_goes_on_while_the_server_is_away(server):
    server.answers["/v1/endings"] = AWAY
    began = time.monotonic()
    with tappass_session() as session:
        work()
    assert session.status == "completed"
    assert time.monotonic() - began < 2
    assert remote().outbox.left() == 2


def test_a_session_is_resumed_after_its_own_close_has_arrived(server):
    with tappass_session() as session:
        work()
    server.answers["/sessions/resume"] = lambda _: opened({"id": session.session_id}) | {"openings": 2}
    with resume("tok"):
        work()
    paths = [request.url.path for request in server.seen]
    assert paths.index("/v1/endings") < paths.index("/sessions/resume")
    closes = [entry for entry in delivered(server, 4) if entry["kind"] == "close"]
    assert [entry["openings"] for entry in closes] == [1, 2], "a late close is of the time before"


def test_what_the_server_will_never_take_holds_nothing_up(server):
    def picky(entries: list[Any]) -> Any:
        names = [entry["ending"]["error_type"] for entry in entries if entry["kind"] == "ending"]
        return problem(422, "odd") if "Bad" in names else {"accepted": len(entries), "duplicates": 0}

    class Bad(Exception): ...

    @tool(name="sometimes_bad")
    def sometimes(n: int) -> None:
        if n == 5:
            raise Bad

    server.answers["/v1/endings"] = picky
    with tappass_session():
        for n in range(10):
            try:
                sometimes(n)
            except Bad:
                continue
    plane = remote()
    assert plane.delivery.wait_for(2**62, 10)
    taken = [e for sent in server.to("/v1/endings") if not isinstance(picky(sent), httpx.Response) for e in sent]
    assert len(taken) == 10
    assert plane.outbox.left() == 0


def test_an_entry_that_the_server_stumbles_over_holds_up_its_own_session_alone(server, monkeypatch):
    from tappass.plane import delivery

    monkeypatch.setattr(delivery, "BACKOFF_S", (0.001,))
    monkeypatch.setattr(delivery, "FLUSH_S", 0.1)
    stumbled: list[str] = []

    def stumbling(entries: list[Any]) -> Any:
        sessions = [entry["ending"]["session_id"] if "ending" in entry else entry["session_id"] for entry in entries]
        return problem(500) if stumbled[0] in sessions else {"accepted": len(entries), "duplicates": 0}

    server.answers["/v1/endings"] = stumbling
    with tappass_session() as first:
        stumbled.append(first.session_id)
        work()
        with tappass_session() as second:
            work()
            work()
    for _ in range(500):
        if remote().outbox.left() == 2:
            break
        time.sleep(0.01)
    left = {row[1] for row in remote().outbox.batch(10)}
    assert left == {first.session_id}
    assert second.session_id not in left


def test_a_dropped_stream_is_settled_without_any_lock(server):
    @tool(name="dropped_remote")
    def count() -> Iterator[int]:
        yield from range(10)

    with tappass_session():
        stream = count()
        assert next(stream) == 0
        with remote().outbox._lock:
            del stream
            gc.collect()
        assert [entry["ending"]["status"] for entry in delivered(server, 1)] == ["abandoned"]


def test_what_a_process_left_is_delivered_at_the_next_start(server, tmp_path):
    server.answers["/v1/endings"] = AWAY
    with tappass_session():
        work()
    name = remote().url
    registry.forget_plane(name)
    server.answers["/v1/endings"] = lambda entries: {"accepted": len(entries), "duplicates": 0}
    server.seen.clear()
    made = RemotePlane(origin_of(URL, KEY), tmp_path, transport=httpx.MockTransport(server))
    assert [entry["kind"] for entry in delivered(server, 2)] == ["ending", "close"]
    made.shutdown()


def test_many_threads_lose_nothing_and_double_nothing(server):
    def many(n: int) -> None:
        with tappass_session():
            for _ in range(50):
                work(n)

    threads = [threading.Thread(target=many, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert remote().delivery.wait_for(2**62, 10)
    entries = delivered(server, 204)
    tasks = [entry["ending"]["task_id"] for entry in entries if entry["kind"] == "ending"]
    assert len(tasks) == len(set(tasks)) == 200
    assert {entry["kind"] for entry in entries[-1:]} == {"close"}
