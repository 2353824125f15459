"""Blocking work from async code, on threads of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

T = TypeVar("T")
R = TypeVar("R")

THREADS = 8
WAIT_S = 5.0

_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("tappass_limiter")


def limiter() -> anyio.CapacityLimiter:
    """Return this event loop's limiter: ours, so that user code cannot starve a decision of threads."""
    try:
        return _limiter.get()
    except LookupError:
        _limiter.set(made := anyio.CapacityLimiter(THREADS))
        return made


async def hop(function: Callable[[T], R], argument: T) -> R:
    """Call a blocking function on a thread."""
    return await anyio.to_thread.run_sync(function, argument, limiter=limiter())


async def hop_to_the_end(function: Callable[[T], R], argument: T) -> R:
    """Call a blocking function on a thread; if the caller is cancelled meanwhile, wait for it all the same.

    anyio shields the thread from its own cancellation; asyncio's `task.cancel()` knows no shield, so the wait is
    repeated here, bounded.
    """
    running: list[bool] = []

    def run(value: T) -> R:
        running.append(True)
        try:
            return function(value)
        finally:
            running.clear()

    try:
        return await anyio.to_thread.run_sync(run, argument, limiter=limiter())
    except BaseException:
        if running:
            with anyio.move_on_after(WAIT_S, shield=True):
                await _until_idle(running)
        raise


async def _until_idle(running: list[Any]) -> None:
    while running:  # noqa: ASYNC110 (set from a thread that knows of no event loop)
        await anyio.sleep(0.001)
