"""One session for each request: everything that belongs to the request is in it, nothing else is."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route
from tappass_adapters.fastapi import TapPassMiddleware

from tappass import TapPassConfigError, current_session, join_correlation, tappass_session, tool, with_correlation
from tests.adapters.fastapi.conftest import IDS, Site, eventually, live


def session_id():
    session = current_session()
    return session.session_id if session is not None else ""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_request_has_a_session_of_its_own_named_for_its_route(site, app, tappass_plane, audit_events, backend):
    @app.get("/orders/{number}")
    def order(number: int):
        return session_id()

    answer = site.ask(site.put(app, agent="shop"), path="/orders/7?secret=s3cret", backend=backend)
    (opened,) = audit_events(type="session.opened")
    assert opened.kind == "request"
    assert answer.json() == answer.headers["x-tappass-session"] == opened.session_id
    assert all(answer.headers[name] for name in IDS)
    (closed,) = audit_events(type="session.closed")
    assert (closed.session_id, closed.status) == (opened.session_id, "completed")
    row = tappass_plane.plane.engine.store.read.session(opened.session_id)
    # The path itself may hold anything, and names end up in logs and rules.
    assert row.name == "GET /orders/{number}"
    assert session_id() == ""


def test_routers_mounts_and_unknown_paths_have_names_too(site, tappass_plane, audit_events):
    inner, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/outer")
    inner.add_api_route("/{number}", lambda number: number)
    outer.include_router(inner)
    mounted = Starlette(routes=[Route("/below/{name}", lambda request: PlainTextResponse("x"))])
    app = FastAPI(routes=[Mount("/mounted", mounted)])
    app.include_router(outer, prefix="/v1")
    served = site.put(app)
    for path in ("/v1/outer/inner/7", "/mounted/below/x", "/nothing/here"):
        site.ask(served, path=path)
    store = tappass_plane.plane.engine.store
    names = [store.read.session(event.session_id).name for event in audit_events(type="session.opened")]
    assert names == ["GET /v1/outer/inner/{number}", "GET /mounted/below/{name}", "GET"]


def test_everything_of_a_request_is_in_its_session_to_its_end(site, app, tappass_plane, audit_events):
    seen, threads = {}, set()

    @tool
    def work_in_request(where: str):
        seen[where] = session_id()
        threads.add(threading.get_ident())

    def dependency():
        work_in_request("before")
        yield session_id()
        work_in_request("after")

    def background():
        work_in_request("background")

    async def abackground():
        work_in_request("async background")

    @app.get("/sync")
    def sync(tasks: BackgroundTasks, told: str = Depends(dependency)):
        tasks.add_task(background)
        tasks.add_task(abackground)
        work_in_request("endpoint")
        return told

    @app.get("/async-stream")
    async def astream(told: str = Depends(dependency)):
        async def body():
            for number in range(3):
                work_in_request(f"piece {number}")
                yield session_id()

        return StreamingResponse(body())

    @app.get("/sync-stream")
    def stream(told: str = Depends(dependency)):
        def body():
            for number in range(3):
                work_in_request(f"piece {number}")
                yield session_id()

        return StreamingResponse(body())

    with live(site.put(app)) as url, httpx.Client(base_url=url, trust_env=False) as client:
        for path in ("/sync", "/async-stream", "/sync-stream"):
            seen.clear()
            answer = client.get(path)
            own = answer.headers["x-tappass-session"]
            assert set(answer.text.replace('"', "").split(own)) == {""}
            (closed,) = eventually(lambda own=own: audit_events(type="session.closed", session_id=own))
            assert set(seen.values()) == {own}
            assert len(seen) == 5
            calls = audit_events(type="call.decided", session_id=own)
            assert len(calls) == 5
            # Closed after the last of them.
            assert closed.seq > max(call.seq for call in calls)
    assert len(threads) > 1


def test_parallel_requests_never_mix_and_none_leaks(site, app, tappass_plane):
    @app.get("/sync/{number}")
    def sync(number: int, tasks: BackgroundTasks):
        own = session_id()
        tasks.add_task(lambda: wrong.append("task") if session_id() != own else None)
        return [number, own]

    @app.get("/async/{number}")
    async def asynchronous(number: int):
        first = session_id()
        await anyio.lowlevel.checkpoint()
        meeting.add(number)
        while len(meeting) < 20:
            await anyio.lowlevel.checkpoint()
        return [number, first if first == session_id() else "mixed"]

    meeting, wrong = set(), []

    async def all_at_once(url):
        found = []

        async def one(client, path):
            answer = await client.get(path)
            assert answer.json()[1] == answer.headers["x-tappass-session"]
            found.append(answer.json()[1])

        limits = httpx.Limits(max_connections=60)
        async with (
            httpx.AsyncClient(base_url=url, trust_env=False, limits=limits, timeout=60) as client,
            anyio.create_task_group() as group,
        ):
            for number in range(20):
                group.start_soon(one, client, f"/async/{number}")
                group.start_soon(one, client, f"/sync/{number}")
        return found

    with live(site.put(app)) as url:
        found = anyio.run(all_at_once, url)
    assert len(set(found)) == 40
    assert not wrong
    assert session_id() == ""


def test_a_request_joins_its_callers_session_and_leaves_it_open(site, app, tappass_plane, audit_events):
    @app.get("/")
    async def endpoint():
        session = current_session()
        return [session.session_id, session.parent]

    served = site.put(app, audience="shop")
    with tappass_session(name="caller") as caller:
        headers = with_correlation(audience="shop")
        first, second = site.ask(served, headers=headers), site.ask(served, headers=headers)
        assert first.json() == second.json() == [first.headers["x-tappass-session"], caller.session_id]
        assert current_session() is caller
        assert not audit_events(type="session.closed")
        with join_correlation(headers, audience="shop") as again:
            assert again.session_id == first.json()[0]


def test_the_same_middleware_twice_is_once_and_another_beside_it_is_refused(app, tappass_plane, audit_events):
    @app.get("/")
    def endpoint():
        return session_id()

    app.add_middleware(TapPassMiddleware, agent="shop")
    app.add_middleware(TapPassMiddleware, agent="shop")
    site = Site("around")
    answer = site.ask(TapPassMiddleware(app, agent="shop"))
    assert [event.session_id for event in audit_events(type="session.opened")] == [answer.json()]
    # A request with two owners has none: nothing runs.
    answer = site.ask(TapPassMiddleware(app, agent="another"), raises=TapPassConfigError)
    assert answer.status_code == 500


def test_behind_a_middleware_that_runs_the_application_in_a_task_of_its_own(site, app, tappass_plane):
    @app.get("/")
    def endpoint():
        return session_id()

    class Passing(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            return await call_next(request)

    app.add_middleware(Passing)
    answer = site.ask(site.put(app))
    assert answer.json() == answer.headers["x-tappass-session"]


def test_lifespan_passes_through_and_is_in_no_session(site, tappass_plane, audit_events):
    seen = []

    @asynccontextmanager
    async def lifespan(app):
        seen.append(("up", session_id()))
        yield
        seen.append(("down", session_id()))

    with live(site.put(FastAPI(lifespan=lifespan)), lifespan="on"):
        pass
    assert seen == [("up", ""), ("down", "")]
    assert not audit_events(type="session.opened")


def test_starlette_and_bare_applications_are_served_as_well(site, tappass_plane, audit_events):
    starlette = Starlette(routes=[Route("/hello", lambda request: JSONResponse(session_id()))])
    answer = site.ask(site.put(starlette), path="/hello")
    assert answer.json() == answer.headers["x-tappass-session"]

    async def bare(scope, receive, send):
        headers = [(b"X-TapPass-Session", b"mine"), (b"x-mine", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": session_id().encode()})

    answer = site.ask(TapPassMiddleware(bare))
    assert answer.headers.get_list("x-tappass-session") == [answer.text]
    assert answer.headers["x-mine"] == "1"
    assert len(audit_events(type="session.closed", status="completed")) == 2


def test_a_client_that_leaves_mid_stream_ends_the_session(site, app, tappass_plane, audit_events):
    left = threading.Event()

    @app.get("/")
    async def endpoint():
        async def body():
            yield session_id().encode()
            await anyio.to_thread.run_sync(left.wait)
            while True:
                yield b"x" * 65536
                await anyio.lowlevel.checkpoint()

        return StreamingResponse(body())

    with live(site.put(app)) as url:
        with httpx.stream("GET", url, trust_env=False) as answer:
            own = next(answer.iter_bytes()).decode()
        left.set()
        eventually(lambda: audit_events(type="session.closed", session_id=own))


def test_a_cancelled_request_ends_its_session_as_failed(site, app, tappass_plane, audit_events):
    async def scenario():
        entered = anyio.Event()

        @app.get("/")
        async def endpoint():
            entered.set()
            await anyio.sleep_forever()

        served = site.put(app)
        async with anyio.create_task_group() as group:
            transport = httpx.ASGITransport(served)
            async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
                group.start_soon(client.get, "/")
                await entered.wait()
                group.cancel_scope.cancel()
        assert current_session() is None

    anyio.run(scenario)
    assert [event.status for event in audit_events(type="session.closed")] == ["failed"]


def test_the_sessions_status_is_how_the_request_ended(site, app, tappass_plane, audit_events):
    @app.get("/{status}")
    def endpoint(status: int):
        return JSONResponse({}, status_code=status)

    served = site.put(app)
    for status in (200, 404, 500, 503):
        site.ask(served, path=f"/{status}")
    assert [event.status for event in audit_events(type="session.closed")] == [
        "completed",
        "completed",
        "failed",
        "failed",
    ]
