"""A real server on a thread of the test's own process: up in milliseconds, its engine within reach."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import uvicorn

from tappass.engine.credentials import AGENT
from tappass.engine.keys import Keys
from tappass.engine.leaves import Leaves
from tappass.engine.organisations import Organisations
from tappass.engine.trust import Agents
from tappass.plane.connect import connect
from tappass.plane.embedded import EmbeddedPlane
from tappass.session.registry import registry
from tappass.wire.ids import SYSTEM_CLOCK
from tests.people import ADA

AGENT_NAME = "default"


class Living:
    """A server that runs on a thread.

    Attributes:
        url: its base url.
        key: an agent's key, the agent is called `default`.
        served: the plane that it serves.
    """

    def __init__(self, url: str, key: str, served: EmbeddedPlane) -> None:
        self.url, self.key, self.served = url, key, served


class Remote:
    """A remote plane with the engine that answers behind it: what `tappass.testing.MemoryPlane` is for tests."""

    def __init__(self, server: Living) -> None:
        self.plane: Any = connect(server.url, server.key)
        self._served = server.served
        self.engine = server.served.engine
        self.agent = AGENT_NAME

    def policy(self, text: str, file: str = "policy.yaml") -> None:
        """Put a policy in force, for sessions opened from now on."""
        home = self._served.directory
        assert home is not None
        (home / file).write_text(dedent(text).lstrip("\n"))
        self._served.pipelines.accept("os:tester")
        registry.forget_implicit(self.plane.url)

    def settings(self, text: str) -> None:
        """Put settings in force, for sessions opened from now on."""
        self.policy(text, "tappass.toml")

    def events(self, **equal: Any) -> list[Any]:
        """Return the log's events once the outbox is delivered, filtered by field."""
        assert self.plane.delivery.wait_for(2**62, 10), "the outbox was not delivered"
        self.engine.store.flush()
        events = self.engine.store.read.all_events()
        return [e for e in events if all(getattr(e, name) == value for name, value in equal.items())]


class _Prompt(uvicorn.Server):
    """uvicorn, without the two times 100 ms that it takes to end: thousands of tests wait for that."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # noqa: ASYNC110 - uvicorn is told by a flag
            await asyncio.sleep(0.005)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listening in self.servers:
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        until = time.monotonic() + 1
        while (self.server_state.connections or self.server_state.tasks) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        for task in self.server_state.tasks:
            task.cancel()
        await self.lifespan.shutdown()


@contextmanager
def remote_plane(directory: Path, database: str = "") -> Iterator[Remote]:
    """Make a plane behind HTTP the default one for a block: a server of its own, of that directory."""
    with living(directory, database) as server:
        os.environ.update(TAPPASS_URL=server.url, TAPPASS_API_KEY=server.key)
        try:
            yield Remote(server)
        finally:
            registry.shutdown()
            del os.environ["TAPPASS_URL"], os.environ["TAPPASS_API_KEY"]


@contextmanager
def living(directory: Path, database: str = "") -> Iterator[Living]:
    """Yield a server of that directory, ready."""
    state = directory / ".tappass"
    state.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        # What the framework deprecates for its next major version is the server's to see, and stops nobody here.
        warnings.simplefilter("ignore", DeprecationWarning)
        from tappass.server.app import make_app
        from tappass.server.serve import Serving

    house = Serving(database or f"sqlite:///{state}/tappass.db", state).house()
    Organisations(house.store).settle_in()
    plane = house.plane()
    leaves = Leaves(SYSTEM_CLOCK)
    Agents(house.store, leaves, SYSTEM_CLOCK).add(ADA, AGENT_NAME)
    key = Keys(house.store, leaves).create("a test", AGENT, name=AGENT_NAME).key
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        app = make_app(house)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="on", ws="none", loop="asyncio", timeout_graceful_shutdown=1
    )
    server = _Prompt(config)
    # With its protocol named: asyncio only then sends what it has at once.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    host, port = listening.getsockname()
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not come up"
            time.sleep(0.001)
        yield Living(f"http://{host}:{port}", key, plane)
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
