"""What goes wrong, and what is answered: decisions, refused tokens, a plane that is away, the application's bugs."""

from __future__ import annotations

import json
import logging
import socket

import anyio
import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse

from tappass import (
    ApprovalRequired,
    BreakGlassActive,
    PolicyBlockError,
    RedactionApplied,
    TapPassConnectionError,
    TapPassError,
    ToolIntegrityViolation,
    TrustTierDenied,
    current_session,
    tappass_session,
    tool,
    with_correlation,
)
from tappass.testing import memory_plane
from tappass.wire.ids import SystemClock
from tests.adapters.fastapi.conftest import IDS, Site, TapPassMiddleware, live
from tests.people import ADA
from tests.serving import free_port

PROBLEM = "application/problem+json"
POLICY = """
    version: 1
    rules:
      - {id: never, tool: 'blocked_*', effect: block, classification: secret}
      - {id: ask, tool: 'held_*', effect: require_approval}
      - {id: tier, tool: 'high_*', effect: require_tier, tier: privileged}
"""


def decisions():
    """Return one of each kind."""
    ids = current_session().correlation
    return {
        "policy_block": PolicyBlockError("m", blocked_by="r", classification="c", correlation=ids),
        "redaction_applied": RedactionApplied("m", redacted_content={"a": 1}, correlation=ids),
        "approval_required": ApprovalRequired(
            "m", approval_url="http://a", resume_token="t", expires_at="e", correlation=ids
        ),
        "trust_tier_denied": TrustTierDenied("m", required_tier="a", actual_tier="b", correlation=ids),
        "break_glass_active": BreakGlassActive("m", level="relax", expires_at="e", correlation=ids),
        "tool_integrity_violation": ToolIntegrityViolation("m", tool_name="t", violation="revoked", correlation=ids),
    }


FIELDS = {
    "policy_block": {"blocked_by", "classification", "details"},
    "redaction_applied": {"redactions", "redacted_content"},
    "approval_required": {"approval_url", "resume_token", "expires_at"},
    "trust_tier_denied": {"required_tier", "actual_tier"},
    "break_glass_active": {"level", "expires_at"},
    "tool_integrity_violation": {"tool_name", "violation"},
}


@pytest.mark.parametrize("decision", FIELDS)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_each_decision_is_a_typed_response(site, app, tappass_plane, audit_events, decision, backend):
    @app.get("/")
    async def endpoint():
        raise decisions()[decision]

    answer = site.ask(site.put(app), backend=backend)
    held = decision == "approval_required"
    assert answer.status_code == (428 if held else 403)
    assert answer.headers["content-type"] == PROBLEM
    body = answer.json()
    assert FIELDS[decision] <= body.keys()
    assert body.keys() >= {"type", "title", "status", "detail", "message", "reason", "session_id", "audit_url", "error"}
    assert (body["decision"], body["status"]) == (decision, answer.status_code)
    assert body["session_id"] == answer.headers["x-tappass-session"]
    (closed,) = audit_events(type="session.closed")
    assert closed.status == ("suspended" if held else "failed")


def test_a_blocked_tool_is_a_403_wherever_it_is_called(site, app, tappass_plane):
    tappass_plane.policy(POLICY)

    @tool
    def blocked_anywhere():
        raise AssertionError("ran")

    def dependency():
        blocked_anywhere()

    def late():
        yield
        blocked_anywhere()

    sub = FastAPI()

    @sub.get("/endpoint")
    @app.get("/endpoint")
    def endpoint():
        blocked_anywhere()

    @app.get("/async")
    async def asynchronous():
        blocked_anywhere()

    @app.get("/dependency", dependencies=[Depends(dependency)])
    def depending(): ...

    @app.get("/group")
    async def grouped():
        async def member():
            blocked_anywhere()

        async with anyio.create_task_group() as group:
            group.start_soon(member)
            group.start_soon(member)

    app.mount("/mounted", sub)
    served = site.put(app)
    for path in ("/endpoint", "/async", "/dependency", "/group", "/mounted/endpoint"):
        answer = site.ask(served, path=path)
        assert (answer.status_code, answer.headers["content-type"]) == (403, PROBLEM), path
        assert answer.json()["blocked_by"] == "never"
        assert answer.headers["x-tappass-task"] == answer.json()["task_id"] != ""


def test_an_applications_own_handler_of_a_decision_is_left_alone(site, app, tappass_plane, audit_events):
    @app.exception_handler(PolicyBlockError)
    async def mine(request, error):
        return JSONResponse({"mine": error.blocked_by}, status_code=int(request.query_params["status"]))

    @app.get("/")
    async def endpoint(kind: str = "policy_block"):
        raise decisions()[kind]

    served = site.put(app)
    for status in (418, 500):
        answer = site.ask(served, path=f"/?status={status}")
        assert (answer.status_code, answer.json()) == (status, {"mine": "r"})
        assert answer.headers["x-tappass-session"]
    # Of another kind, which it does not handle.
    assert site.ask(served, path="/?kind=approval_required").status_code == 428
    assert [event.status for event in audit_events(type="session.closed")] == ["failed", "failed", "suspended"]


def test_a_decision_comes_before_an_applications_page_for_any_error(site, app, tappass_plane):
    @app.exception_handler(Exception)
    async def any_error(request, error):
        called.append(error)
        return JSONResponse({"oops": True}, status_code=500)

    @app.get("/")
    async def endpoint():
        raise decisions()["policy_block"]

    called = []
    assert site.ask(site.put(app)).json()["decision"] == "policy_block"


def test_an_applications_http_errors_are_its_own_and_carry_the_ids(site, app, tappass_plane, audit_events):
    @app.get("/teapot")
    def teapot():
        raise HTTPException(418, {"mine": 1}, headers={"x-mine": "1"})

    @app.get("/number/{number}")
    def number(number: int): ...

    @app.exception_handler(KeyError)
    def on_key(request, error):
        return JSONResponse("key", status_code=409)

    @app.get("/key")
    def key():
        raise KeyError

    served = site.put(app)
    answer = site.ask(served, path="/teapot")
    assert (answer.status_code, answer.json(), answer.headers["x-mine"]) == (418, {"detail": {"mine": 1}}, "1")
    statuses = [answer.status_code]
    for method, path in (("GET", "/nothing"), ("POST", "/teapot"), ("GET", "/number/x"), ("GET", "/key")):
        answer = site.ask(served, method, path)
        statuses.append(answer.status_code)
        assert answer.headers["content-type"] == "application/json"
        assert all(answer.headers[name] for name in IDS)
    assert statuses == [418, 404, 405, 422, 409]
    assert {event.status for event in audit_events(type="session.closed")} == {"completed"}


class Bug(Exception):
    pass


@pytest.mark.parametrize("page", ["default", "async", "sync", "debug"])
def test_an_unhandled_error_carries_the_ids_and_reaches_the_server(site, tappass_plane, audit_events, page):
    app, called = FastAPI(debug=page == "debug"), []

    def mine(request, error):
        called.append(type(error))
        return JSONResponse({"mine": True}, status_code=500)

    async def amine(request, error):
        return mine(request, error)

    if page in ("async", "sync"):
        app.add_exception_handler(Exception, amine if page == "async" else mine)

    @app.get("/")
    def endpoint():
        raise Bug("s3cret")

    served = site.put(app)
    for number in range(2):
        answer = site.ask(served, raises=Bug)
        assert answer.status_code == 500
        assert all(answer.headers[name] for name in IDS)
        # Once a request: it may send mails.
        assert len(called) == (number + 1 if page in ("async", "sync") else 0)
    if page == "default":
        assert answer.text == "Internal Server Error"
    elif page == "debug":
        assert "s3cret" in answer.text
    else:
        assert answer.json() == {"mine": True}
    closed = audit_events(type="session.closed")
    assert [event.status for event in closed] == ["failed", "failed"]
    assert closed[-1].session_id == answer.headers["x-tappass-session"]


def test_over_http_an_unhandled_error_is_a_500_with_ids_and_in_the_servers_log(site, app, tappass_plane, caplog):
    @app.get("/")
    def endpoint():
        raise Bug("mine")

    with caplog.at_level(logging.ERROR), live(site.put(app)) as url:
        answer = httpx.get(url, trust_env=False)
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert answer.headers["x-tappass-session"]
    assert "Bug: mine" in caplog.text


def test_a_bare_application_that_fails_is_a_500_with_ids(tappass_plane):
    async def bare(scope, receive, send):
        raise Bug

    answer = Site("around").ask(TapPassMiddleware(bare), raises=Bug)
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert answer.headers["x-tappass-session"]


@pytest.mark.parametrize("error", [Bug, "policy_block"])
def test_an_error_after_the_response_began_corrupts_nothing(site, app, tappass_plane, audit_events, error):
    @app.get("/")
    async def endpoint():
        ready = decisions()

        async def body():
            yield b"first"
            raise Bug if error is Bug else ready[error]

        return StreamingResponse(body())

    pieces = b""
    with (
        live(site.put(app)) as url,
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("GET", url, trust_env=False) as answer,
    ):
        for piece in answer.iter_raw():
            pieces += piece
    assert pieces == b"first"
    assert {event.status for event in audit_events(type="session.closed")} == {"failed"}


# Tokens.


def refused(answer, problem):
    assert answer.status_code == 403, answer.text
    assert answer.headers["content-type"] == PROBLEM
    assert answer.json()["error"]["code"] == f"correlation_{problem}"
    assert "x-tappass-session" not in answer.headers


@pytest.fixture
def untouched(app):
    """An application whose endpoint must not run."""
    ran = []

    @app.get("/")
    def endpoint():
        ran.append(1)

    yield app
    assert not ran


def test_a_token_that_does_not_hold_is_refused_and_nothing_runs(site, untouched, tappass_plane, audit_events):
    served = site.put(untouched, audience="shop")
    with tappass_session(name="caller"):
        token = with_correlation(audience="shop")["tappass-correlation"]
        elsewhere = with_correlation(audience="elsewhere")
        changed = token[:-10] + ("A" if token[-10] != "A" else "B") + token[-9:]
        with memory_plane() as other, tappass_session(url=other.url):
            foreign = with_correlation(audience="shop")
        opened = len(audit_events(type="session.opened"))
        for headers, problem in (
            (elsewhere, "audience"),
            ({"tappass-correlation": changed}, "signature"),
            (foreign, "key"),
            ({"tappass-correlation": ""}, "malformed"),
            ({"tappass-correlation": "x" * 60_000}, "malformed"),
            ({"tappass-correlation": "a.b.c"}, "malformed"),
            ([("tappass-correlation", token), ("TapPass-Correlation", token)], "malformed"),
            ([(b"tappass-correlation", "tökèn".encode())], "malformed"),
            ([(b"tappass-correlation", b"\xff\x00\x80")], "malformed"),
        ):
            refused(site.ask(served, headers=headers), problem)
    refused(site.ask(served, headers={"tappass-correlation": token}), "session")
    assert len(audit_events(type="session.opened")) == opened


def test_a_token_can_be_required(site, untouched, tappass_plane):
    refused(site.ask(site.put(untouched, audience="shop", required=True)), "missing")


def test_within_cors_a_page_may_read_refusals_and_its_preflight_needs_no_token(site, app, tappass_plane):
    tappass_plane.policy(POLICY)

    @tool
    def blocked_tool(): ...

    @app.get("/")
    def endpoint():
        blocked_tool()

    origin = {"origin": "http://page"}
    served = CORSMiddleware(site.put(app, audience="shop", required=True), allow_origins=["http://page"])
    preflight = {**origin, "access-control-request-method": "GET"}
    assert site.ask(served, "OPTIONS", headers=preflight).status_code == 200
    missing = site.ask(served, headers=origin)
    with tappass_session(name="caller"):
        blocked = site.ask(served, headers=with_correlation(origin, audience="shop"))
    assert (missing.json()["error"]["code"], blocked.json()["blocked_by"]) == ("correlation_missing", "never")
    for answer in (missing, blocked):
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (403, "http://page")


class Later(SystemClock):
    ahead_s = 0

    def time_ns(self):
        return super().time_ns() + self.ahead_s * 10**9


def test_an_expired_token_is_refused(site, untouched):
    clock = Later()
    with memory_plane(clock=clock), tappass_session(name="caller"):
        headers = with_correlation(audience="shop")
        clock.ahead_s = 3601
        refused(site.ask(site.put(untouched, audience="shop"), headers=headers), "expired")


def test_hostile_headers_over_http_break_nothing(site, untouched, tappass_plane):
    with live(site.put(untouched, audience="shop")) as url:
        host, port = url.removeprefix("http://").split(":")
        for line in (
            b"tappass-correlation: " + b"y" * 20_000,
            b"tappass-correlation: \xff\xfe",
            b"TAPPASS-CORRELATION:",
        ):
            refused(_raw(host, int(port), line), "malformed")


def _raw(host, port, line):
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n" + line + b"\r\n\r\n")
        told = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = told.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(each.split(": ", 1) for each in lines)
    assert int(headers["content-length"]) == len(body)
    return httpx.Response(int(status.split()[1]), headers=headers, content=body)


# The plane.


def test_a_plane_that_is_away_is_a_503_and_nothing_runs(site, untouched, monkeypatch):
    url = f"http://127.0.0.1:{free_port()}"
    served = site.put(untouched, url=url, api_key="tp_none")
    answer = site.ask(served)
    assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)
    assert (answer.json()["error"]["code"], answer.headers["retry-after"]) == ("plane_unavailable", "1")
    answer = site.ask(served, headers={"tappass-correlation": "YQ.YQ.YQ"})
    assert answer.status_code == 503
    assert "tp_none" not in answer.text


def test_a_plane_that_fails_within_a_request_is_a_503(site, app, tappass_plane):
    @app.get("/")
    def endpoint():
        raise TapPassConnectionError("inner words")

    answer = site.ask(site.put(app))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "plane_unavailable")
    assert "inner words" not in answer.text


def test_other_errors_of_ours_are_the_applications_to_handle(site, app, tappass_plane):
    @app.get("/")
    def endpoint():
        raise TapPassError("mine")

    assert site.ask(site.put(app), raises=TapPassError).status_code == 500


# Approvals, over several requests.


def test_a_held_request_is_a_428_and_runs_once_when_it_comes_again_with_its_token(site, app, tappass_plane):
    tappass_plane.policy(POLICY)
    ran = []

    @tool
    def held_payment(amount: int):
        ran.append(amount)
        return amount

    @app.get("/pay/{amount}")
    def pay(amount: int):
        return held_payment(amount)

    served = site.put(app)
    answer = site.ask(served, path="/pay/7")
    body = answer.json()
    assert answer.status_code == 428
    assert body["approval_url"].startswith("http")
    headers = {"X-TapPass-Resume": body["resume_token"]}
    assert site.ask(served, path="/pay/7", headers=headers).status_code == 428
    _approve(tappass_plane, body["resume_token"])
    # Exactly this action, and no other.
    assert site.ask(served, path="/pay/8", headers=headers).status_code == 403
    assert ran == []
    answer = site.ask(served, path="/pay/7", headers=headers)
    assert (answer.status_code, answer.json(), ran) == (200, 7, [7])
    assert answer.headers["x-tappass-session"] == body["session_id"]
    assert site.ask(served, path="/pay/7", headers=headers).status_code == 403
    assert ran == [7]


def test_what_a_caller_s_session_waits_for_runs_when_it_asks_again(site, app, tappass_plane):
    tappass_plane.policy(POLICY)
    ran = []

    @tool
    def held_once():
        ran.append(1)

    @app.get("/")
    def endpoint():
        held_once()

    served = site.put(app, audience="shop")
    with tappass_session(name="caller"):
        headers = with_correlation(audience="shop")
        body = site.ask(served, headers=headers).json()
        _approve(tappass_plane, body["resume_token"])
        both = headers | {"x-tappass-resume": body["resume_token"]}
        assert site.ask(served, headers=both).status_code == 200
        assert ran == [1]


def test_a_resume_token_that_holds_nothing_is_refused(site, untouched, tappass_plane):
    served = site.put(untouched)
    for headers in (
        {"x-tappass-resume": "tp_resume_forged"},
        {"x-tappass-resume": ""},
        [("x-tappass-resume", "a"), ("x-tappass-resume", "a")],
        [(b"x-tappass-resume", b"\xff")],
    ):
        answer = site.ask(served, headers=headers)
        assert answer.status_code == 403
        assert json.loads(answer.text)["type"] == "urn:tappass:problem:resume_refused"


def _approve(plane, token):
    voting = plane.plane.engine.voting
    voting.approve(voting.approval_of(token), ADA, "a test")
