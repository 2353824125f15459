"""Real applications: over HTTP on loopback where that matters, else driven as ASGI."""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
from contextlib import contextmanager

import anyio
import httpx
import pytest
from tappass_adapters.fastapi import TapPassMiddleware

# Where the framework is not installed, these tests run in the environment that has it.
collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("fastapi") is None else []

IDS = ("x-tappass-session", "x-tappass-agent", "x-tappass-pipeline", "x-tappass-audit-url")


class Site:
    """An application that is served; its middleware stands inside it or around it."""

    def __init__(self, how):
        self.how = how
        self.options = {}

    def put(self, app, **options):
        """Return what is served: the application with the middleware where this site has it."""
        if self.how == "added":
            app.add_middleware(TapPassMiddleware, **options)
            return app
        return TapPassMiddleware(app, **options)

    def ask(self, app, method="GET", path="/", *, raises=None, backend="asyncio", **request):
        """Send one request, without a network; what the application raises to its server is `raises`."""
        raised = []

        async def noting(scope, receive, send):
            try:
                await app(scope, receive, send)
            except BaseException as error:
                raised.append(error)
                raise

        async def asked():
            transport = httpx.ASGITransport(noting, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
                return await client.request(method, path, **request)

        answer = anyio.run(asked, backend=backend)
        if raises is None:
            assert not raised, raised
        else:
            assert [type(error) for error in raised] == [raises]
        return answer


@pytest.fixture(params=["added", "around"])
def site(request):
    return Site(request.param)


@pytest.fixture
def added():
    return Site("added")


@contextmanager
def live(app, **options):
    """Serve an application on loopback; yield its base url."""
    import uvicorn

    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2, **options)
    server = uvicorn.Server(config)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the application did not start"
            time.sleep(0.005)
        yield "http://{}:{}".format(*listening.getsockname())
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
        listening.close()


@pytest.fixture
def app():
    from fastapi import FastAPI

    return FastAPI()


def eventually(found, seconds=10):
    """Wait for something that another thread does; return it."""
    until = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.005)
    return value
