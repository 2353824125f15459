"""Waiting for what happens elsewhere: no thread is held, and nobody asks the database until something changed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import anyio
from litestar import Request

from tappass.engine.store.port import APPROVAL, Store
from tappass.server.problems import Problem

# A change that was never heard of (a broken connection to the database) is found within this time.
LOOK_AGAIN_S = 1.0


class Bell:
    """Rings, on the event loop that it was made on, when approvals may have changed in any process.

    Args:
        store: what tells of changes.
    """

    def __init__(self, store: Store) -> None:
        # The server runs on uvicorn, so on asyncio; anyio has no call that neither waits for the loop nor needs it.
        self._loop = asyncio.get_running_loop()
        self._next = anyio.Event()
        self.unsubscribe = store.on_change(self._hear)

    def listen(self) -> anyio.Event:
        """Return what is set by the next ring; take it before looking, so that no ring is missed."""
        return self._next

    def _hear(self, org_id: str, topic: str) -> None:
        if topic in ("", APPROVAL):
            with contextlib.suppress(RuntimeError):  # the loop has ended, and who waited with it
                self._loop.call_soon_threadsafe(self._ring)

    def _ring(self) -> None:
        self._next.set()
        self._next = anyio.Event()


async def has_left(request: Request[Any, Any, Any], rung: anyio.Event) -> bool:
    """Wait for a ring, or until it is time to look again; return at once, and True, if the client goes."""
    left = False

    async def watch() -> None:
        nonlocal left
        # What it still sends is nobody's business, nor is what is wrong with it.
        with contextlib.suppress(Problem):
            while (await request.receive())["type"] != "http.disconnect":
                pass
            left = True
            group.cancel_scope.cancel()

    with anyio.move_on_after(LOOK_AGAIN_S):
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await rung.wait()
            group.cancel_scope.cancel()
    return left
