"""Websockets: one session from the handshake to whoever closes first."""

from __future__ import annotations

import json

import pytest
import websockets.sync.client as client
from fastapi import WebSocket, WebSocketDisconnect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tappass import current_session, tappass_session, tool, with_correlation
from tests.adapters.fastapi.conftest import eventually, live
from tests.serving import free_port

POLICY = "version: 1\nrules: [{id: never, tool: 'blocked_*', effect: block}]"


def connected(url, **options):
    return client.connect(url.replace("http", "ws") + "/ws", open_timeout=30, **options)


@pytest.fixture
def closed(audit_events):
    return lambda: [event.status for event in eventually(lambda: audit_events(type="session.closed"))]


def test_a_websocket_is_in_one_session_and_closed_by_the_application(site, app, tappass_plane, closed):
    @app.websocket("/ws")
    async def endpoint(websocket: WebSocket):
        await websocket.accept(headers=[(b"x-mine", b"1")])
        for _ in range(2):
            await websocket.receive_text()
            await websocket.send_text(current_session().session_id)
        await websocket.close(4000, "mine")

    with live(site.put(app)) as url, connected(url) as connection:
        own = connection.response.headers["x-tappass-session"]
        assert connection.response.headers["x-mine"] == "1"
        for _ in range(2):
            connection.send("who")
            assert connection.recv() == own
        with pytest.raises(ConnectionClosedError):
            connection.recv()
        assert (connection.close_code, connection.close_reason) == (4000, "mine")
        assert closed() == ["completed"]


def test_a_websocket_that_its_client_closes_ends_its_session(site, app, tappass_plane, closed):
    told = []

    @app.websocket("/ws")
    async def endpoint(websocket: WebSocket):
        await websocket.accept()
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect as gone:
            told.append((gone.code, current_session() is not None))
            raise

    with live(site.put(app)) as url:
        with connected(url):
            pass
        assert closed() == ["completed"]
    assert told == [(1000, True)]


@pytest.mark.parametrize("accepted", [False, True])
def test_a_refusal_closes_a_websocket_with_its_name(site, app, tappass_plane, closed, accepted):
    tappass_plane.policy(POLICY)

    @tool
    def blocked_in_websocket():
        raise AssertionError("ran")

    @app.websocket("/ws")
    async def endpoint(websocket: WebSocket):
        if accepted:
            await websocket.accept()
        blocked_in_websocket()

    with live(site.put(app)) as url:
        if accepted:
            with connected(url) as connection, pytest.raises(ConnectionClosedError):
                connection.recv()
            assert (connection.close_code, connection.close_reason) == (1008, "policy_block")
        else:
            with pytest.raises(InvalidStatus) as caught, connected(url):
                pass
            response = caught.value.response
            assert response.status_code == 403
            assert json.loads(response.body)["blocked_by"] == "never"
            assert response.headers["x-tappass-task"]
        assert closed() == ["failed"]


def test_a_token_places_a_websocket_or_refuses_it(site, app, tappass_plane):
    ran = []

    @app.websocket("/ws")
    async def endpoint(websocket: WebSocket):
        ran.append(1)
        await websocket.accept()
        await websocket.send_text(current_session().parent)

    with live(site.put(app, audience="shop")) as url, tappass_session(name="caller") as caller:
        with connected(url, additional_headers=with_correlation(audience="shop")) as connection:
            assert connection.recv() == caller.session_id
        for headers in (with_correlation(audience="elsewhere"), {"tappass-correlation": "x"}):
            with pytest.raises(InvalidStatus) as caught, connected(url, additional_headers=headers):
                pass
            assert caught.value.response.status_code == 403
            assert b"correlation_" in caught.value.response.body
    assert ran == [1]


def test_a_plane_that_is_away_lets_no_websocket_in(site, app):
    @app.websocket("/ws")
    async def endpoint(websocket: WebSocket):
        raise AssertionError("ran")

    with live(site.put(app, url=f"http://127.0.0.1:{free_port()}", api_key="tp_none")) as url:
        with pytest.raises(InvalidStatus) as caught, connected(url):
            pass
        assert caught.value.response.status_code == 503


def test_a_bug_in_a_websocket_is_the_servers_to_tell(site, app, tappass_plane, closed):
    @app.websocket("/ws")
    async def endpoint(websocket: WebSocket):
        await websocket.accept()
        raise KeyError

    with live(site.put(app)) as url, connected(url) as connection:
        with pytest.raises(ConnectionClosedError):
            connection.recv()
        # Whatever its server says of it, the session has ended.
        assert closed() == ["failed"]


def test_where_no_answer_can_be_given_the_handshake_is_closed(site, app, tappass_plane):
    """A server without the extension for such answers."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    import anyio

    scope = {
        "type": "websocket",
        "path": "/ws",
        "headers": [(b"tappass-correlation", b"x")],
        "query_string": b"",
        "extensions": {},
    }
    anyio.run(site.put(app), scope, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": "correlation_malformed"}]
