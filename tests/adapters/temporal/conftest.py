"""A development server for the session, a plane for each test, and people who decide."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError
from temporalio.worker import Worker

from tappass import TapPassPlugin
from tappass.testing import memory_plane
from tests.adapters.temporal import workflows
from tests.adapters.temporal.servers import SANDBOX, development_server
from tests.living import remote_plane
from tests.people import BOB

POLICY = """
version: 1
rules:
  - {id: no-eve, tool: "send*", when: 'args.to == "eve"', effect: block, classification: INTERNAL}
  - {id: no-eve-either, tool: transfer, when: 'args.to == "eve"', effect: block}
  - {id: ask, tool: "pay*", effect: require_approval, when: args.amount > 100, expires_in: 30d}
  - {id: ask-wire, tool: wire, effect: require_approval, when: args.amount > 100}
  - {id: ask-transfer, tool: transfer, effect: require_approval, when: args.amount > 100}
  - {id: trusted, tool: deposit, effect: require_tier, tier: trusted, when: args.amount > 100}
  - {id: mask, tool: read_customer, effect: redact, fields: [result], kinds: [EMAIL]}
"""
HISTORIES = Path(__file__).parent / "histories"
PATIENCE_S = 60.0
# A workflow whose task fails is tried again for ever: here it ends, and the test with it.
LONGEST = timedelta(seconds=30)


class World:
    """A plane, a Temporal server, and what a test does with both.

    Attributes:
        address: the Temporal server's.
        plane: the plane, with `policy` and `events`.
        engine: what answers on it.
    """

    def __init__(self, address: str, plane: Any, url: str, api_key: str | None) -> None:
        self.address, self.plane, self.url, self.api_key = address, plane, url, api_key
        if plane is not None:
            self.engine = getattr(plane, "engine", None) or plane.plane.engine
            self.events = plane.events
        self.queue = f"queue-{uuid4().hex}"

    def plugin(self, **options: Any) -> TapPassPlugin:
        return TapPassPlugin(**{"url": self.url, "api_key": self.api_key, "approval_poll_s": 0.1} | options)

    async def client(self, *plugins: Any) -> Client:
        return await Client.connect(self.address, plugins=plugins or [self.plugin()])

    def worker(self, client: Client, **options: Any) -> Worker:
        given: dict[str, Any] = {
            "task_queue": self.queue,
            "workflows": workflows.WORKFLOWS,
            "activities": workflows.ACTIVITIES,
            "activity_executor": ThreadPoolExecutor(4),
            "workflow_runner": SANDBOX,
        }
        return Worker(client, **(given | options))

    @asynccontextmanager
    async def working(self, **options: Any) -> AsyncIterator[Client]:
        client = await self.client()
        async with self.worker(client, **options):
            yield client

    async def start(self, client: Client, workflow: Any, *args: Any, **options: Any) -> WorkflowHandle[Any, Any]:
        wanted = {"id": f"w-{uuid4().hex}", "task_queue": self.queue, "execution_timeout": LONGEST} | options
        return await client.start_workflow(workflow, args=args, **wanted)

    async def run(self, client: Client, workflow: Any, *args: Any, **options: Any) -> Any:
        handle = await self.start(client, workflow, *args, **options)
        return await handle.result()

    async def waiting(self, handle: WorkflowHandle[Any, Any], count: int = 1) -> list[dict[str, str]]:
        """Return what a workflow waits for, once it is so much."""

        async def shown() -> list[dict[str, str]]:
            try:
                found = list(await handle.query("tappass_waiting"))
            except RPCError:  # its first task has not run yet
                return []
            return found if len(found) >= count else []

        return list(await until(shown)) if count else []

    async def another(self, handle: WorkflowHandle[Any, Any], than: dict[str, str]) -> dict[str, str]:
        """Return what a workflow waits for that is not this, once there is something."""

        async def other() -> list[dict[str, str]]:
            return [waits for waits in await handle.query("tappass_waiting") if waits != than]

        return dict((await until(other))[0])

    async def task_done(self, handle: WorkflowHandle[Any, Any]) -> None:
        """Wait until a workflow's first task is done."""

        async def done() -> bool:
            return len((await handle.fetch_history()).events) >= 4

        await until(done)

    async def approve(self, waits: dict[str, str]) -> None:
        await asyncio.to_thread(self.engine.voting.approve, _id(waits), BOB, "looks right")

    async def deny(self, waits: dict[str, str]) -> None:
        await asyncio.to_thread(self.engine.voting.deny, _id(waits), BOB, "who is this")

    async def keep(self, handle: WorkflowHandle[Any, Any], name: str) -> None:
        """Keep a history to be replayed by later versions; written anew where TAPPASS_RECORD says so."""
        history = await handle.fetch_history()
        if RECORDS:
            kept = json.dumps(_portable(json.loads(history.to_json())), indent=1, sort_keys=True)
            (HISTORIES / f"{name}.json").write_text(kept + "\n")
        assert (HISTORIES / f"{name}.json").exists()


async def until(found: Callable[[], Any]) -> Any:
    """Return what a function (or a coroutine function) finds, once it finds something."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        answer = found()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError("it never came to be")


RECORDS = bool(os.environ.get("TAPPASS_RECORD"))


def _portable(node: Any) -> Any:
    """Return a history without what only one machine means: paths in stack traces, names of hosts and processes."""
    if isinstance(node, dict):
        return {key: "" if key in ("stackTrace", "identity") else _portable(value) for key, value in node.items()}
    return [_portable(item) for item in node] if isinstance(node, list) else node


def _id(waits: dict[str, str]) -> str:
    return waits["approval_url"].rpartition("/")[2]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the only one that Temporal runs on


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    with development_server() as found:
        yield found


@contextmanager
def embedded(_tmp_path: Path) -> Iterator[Any]:
    with memory_plane(POLICY) as plane:
        yield plane, plane.url, None


@contextmanager
def remote(tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "server").mkdir()
    with remote_plane(tmp_path / "server") as plane:
        plane.policy(POLICY)
        yield plane, os.environ["TAPPASS_URL"], os.environ["TAPPASS_API_KEY"]


PLANES = {"embedded": embedded, "remote": remote}


@pytest.fixture(params=PLANES)
def world(request: pytest.FixtureRequest, address: str, tmp_path: Path) -> Iterator[World]:
    workflows.RAN.clear()
    with PLANES[request.param](tmp_path) as (plane, url, api_key):
        yield World(address, plane, url, api_key)


@pytest.fixture
def ran() -> list[tuple[str, tuple[object, ...], str]]:
    return workflows.RAN
