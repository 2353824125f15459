"""What carries a session from one process to another: shapes of carriers, decorators, threads, subprocesses."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import anyio
import httpx
import pytest

from tappass import (
    CorrelationRefused,
    PolicyBlockError,
    TapPassConfigError,
    current_session,
    join_correlation,
    tappass_session,
    tool,
    with_correlation,
    with_correlation_async,
)
from tappass.carriers import EXTENSION, METADATA, VARIABLE, token_in
from tests.serving import python_path, serve

HEADER = "tappass-correlation"


def test_an_async_join_that_is_cancelled_leaves_what_was_active(tappass_plane):
    async def scenario():
        async with tappass_session(name="order") as session:
            headers = await with_correlation_async(audience="billing")
            with anyio.CancelScope() as scope:
                async with join_correlation(headers, audience="billing"):
                    scope.cancel()
                    await anyio.sleep_forever()
            assert current_session() is session
            async with join_correlation(headers, audience="billing"):
                pass

    for backend in ("asyncio", "trio"):
        anyio.run(scenario, backend=backend)


def test_headers_are_taken_in_every_shape_and_given_back_in_the_same(tappass_plane):
    with tappass_session(name="order") as session:
        shapes = [
            {"Accept": "*/*"},
            [(b"accept", b"*/*")],
            [("accept", "*/*")],
            [],
            SimpleNamespace(metadata={"mine": 1}),
            SimpleNamespace(metadata=None, extensions=["other"]),
            SimpleNamespace(metadata={}, message=SimpleNamespace(metadata={}, extensions=[])),
        ]
        for shape in shapes:
            before = copy.deepcopy(shape)
            stamped = with_correlation(shape, audience="billing")
            assert shape == before
            assert type(stamped) is type(shape)
            with join_correlation(stamped, audience="billing") as joined:
                assert joined.parent == session.session_id
            # A token that came in is replaced, never doubled.
            assert token_in(with_correlation(stamped, audience="shipping")) != token_in(stamped)
        assert stamped.message.extensions == [EXTENSION]
        with join_correlation({"TapPass-Correlation": token_in(stamped)}, audience="billing"):
            pass
        for shape in (7, "text", b"bytes", [1, 2], object()):
            with pytest.raises(TapPassConfigError):
                with_correlation(shape, audience="billing")
        for shape in (7, b"bytes", [1, 2], object()):
            with pytest.raises(TapPassConfigError), join_correlation(shape, audience="billing"):
                pass


def test_a_requests_metadata_comes_before_its_messages(tappass_plane):
    with tappass_session(name="order"):
        mine = token_in(with_correlation(audience="billing"))
        request = SimpleNamespace(metadata={METADATA: mine}, message=SimpleNamespace(metadata={METADATA: "other"}))
        assert token_in(request) == mine
        request.metadata.clear()
        assert token_in(request) is not None
        request.message.metadata.clear()
        assert token_in(request) is None


def test_a_decorated_function_of_any_kind_runs_in_the_session_of_its_call(tappass_plane):
    def named():
        return current_session().parent

    @join_correlation("message", audience="billing")
    def consume(message, more=1):
        return named()

    @join_correlation("message", audience="billing")
    async def aconsume(*, message):
        return named()

    @join_correlation("message", audience="billing")
    def stream(message):
        yield named()
        yield named()

    @join_correlation("message", audience="billing")
    async def astream(message):
        yield named()

    class Worker:
        @join_correlation("message", audience="billing")
        def method(self, message):
            return named()

        @join_correlation("message", audience="billing")
        @classmethod
        def cls_method(cls, message):
            return named()

        def __call__(self, message):
            return named()

    bound = join_correlation("message", audience="billing")(Worker())

    async def collect(message):
        return [await aconsume(message=message), *[item async for item in astream(message)]]

    for name in ("one", "two"):
        with tappass_session(name=name) as session:
            message = with_correlation(audience="billing")
        with tappass_session(name=name) as session:
            message = with_correlation(audience="billing")
            seen = [consume(message), consume(message=message), *stream(message), *anyio.run(collect, message)]
            seen += [Worker().method(message), Worker.cls_method(message), bound(message)]
            assert set(seen) == {session.session_id}
    assert consume.__name__ == "consume"
    for call in (lambda: consume({}), lambda: next(stream({})), lambda: bound({}), lambda: consume(message=None)):
        with pytest.raises(CorrelationRefused, match="there is none"):
            call()
    with pytest.raises(TypeError):
        consume()
    with pytest.raises(TapPassConfigError, match="no argument of that name"):
        join_correlation("headers")(lambda message: None)
    with pytest.raises(TapPassConfigError, match="names an argument"), join_correlation("message"):
        pass


def test_threads_that_join_at_once_never_mix_and_end_where_they_began(tappass_plane):
    @tool
    def look_peers():
        return current_session().parent

    parents, wrong = {}, []
    for number in range(8):
        with_session = tappass_session(name=str(number))
        session = with_session.open()
        parents[session.session_id] = session.stamp("billing")

    def work(parent, token):
        for _ in range(5):
            with join_correlation({HEADER: token}, audience="billing"):
                if look_peers() != parent:
                    wrong.append(parent)
            if current_session() is not None:
                wrong.append("left over")

    threads = [threading.Thread(target=work, args=pair) for pair in parents.items() for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


CHILD = """
import os
from tappass import join_correlation, tool

@tool
def in_child():
    pass

with join_correlation(os.environ, audience="worker") as session:
    in_child()
    print(session.parent)
"""


def test_a_subprocess_joins_by_its_environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", python_path())
    with tappass_session(name="order") as session:
        environment = with_correlation(os.environ, audience="worker")
        assert VARIABLE not in os.environ
        done = subprocess.run(
            [sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.stdout.split() == [session.session_id], done.stderr
        (decided,) = [e for e in _events(session) if e.name == "in_child"]
        assert decided.session_id != session.session_id


def _events(session):
    store = session.plane.engine.store
    store.flush()
    return store.read.all_events()


def test_an_environment_without_a_token_brings_none(tappass_plane, monkeypatch):
    for text in (None, ""):
        monkeypatch.delenv(VARIABLE, raising=False) if text is None else monkeypatch.setenv(VARIABLE, text)
        with pytest.raises(CorrelationRefused) as caught, join_correlation(os.environ):
            pass
        assert caught.value.problem == "missing"


def test_outside_any_session_the_implicit_one_is_sent_along(tappass_plane, audit_events):
    headers = with_correlation(audience="billing")
    with join_correlation(headers, audience="billing") as joined:
        (opened,) = audit_events(type="session.opened", session_id=joined.parent)
        assert opened.kind == "implicit"


def test_a_refusal_beneath_a_joined_session_stays_on_it(tappass_plane, audit_events):
    tappass_plane.policy("version: 1\nrules: [{id: no, tool: refuse_peers, effect: block}]")

    @tool
    def refuse_peers():
        raise AssertionError("ran")

    with tappass_session(name="order"):
        headers = with_correlation(audience="billing")
    with tappass_session(name="order"):
        headers = with_correlation(audience="billing")
        with pytest.raises(PolicyBlockError) as caught, join_correlation(headers, audience="billing") as joined:
            refuse_peers()
        assert caught.value.session_id == joined.session_id


def test_the_trace_of_an_active_span_goes_along(tappass_plane, monkeypatch):
    context = SimpleNamespace(is_valid=True, trace_id=0xABC, span_id=0xDEF, trace_flags=1)
    span = SimpleNamespace(get_span_context=lambda: context)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", SimpleNamespace(get_current_span=lambda: span))
    with tappass_session(name="order"):
        assert with_correlation(audience="b")["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-01"
        assert with_correlation({"Traceparent": "mine"}, audience="b").get("traceparent") is None
        assert with_correlation(os.environ, audience="b")["TRACEPARENT"].startswith("00-")
        context.is_valid = False
        assert "traceparent" not in with_correlation(audience="b")


def test_a_token_replayed_with_another_key_is_refused(tmp_path):
    with serve(tmp_path) as served:
        headers = {"Authorization": f"Bearer {served.admin_key}"}
        keys = []
        for name in ("caller", "billing", "third"):
            body = {"agent_id": name}
            answer = httpx.post(f"{served.url}/agents/register", json=body, headers=headers, trust_env=False)
            keys.append(answer.raise_for_status().json()["api_key"])
        caller, billing, third = ({"url": served.url, "api_key": key} for key in keys)
        with tappass_session(**caller) as session:
            sent = with_correlation(audience="billing")
        with tappass_session(**caller) as session:
            sent = with_correlation(audience="billing")
            with join_correlation(sent, **billing) as joined:
                assert (joined.parent, joined.agent) == (session.session_id, "billing")
            with pytest.raises(CorrelationRefused) as caught, join_correlation(sent, audience="billing", **third):
                raise AssertionError("never reached")
            assert caught.value.problem == "credential"
            with join_correlation(sent, **billing) as again:
                assert again.session_id == joined.session_id
