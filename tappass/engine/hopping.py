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


async def hop_to_the_end(function: Callable[[T], R], argument: T, *, must: bool = False) -> R:
    """Call a blocking function on a thread; if the caller is cancelled meanwhile, wait for it all the same.

    anyio shields the thread from its own cancellation; asyncio's `task.cancel()` knows no shield, so the wait is
    repeated here, bounded. A cancelled caller that comes before the thread has begun keeps it from beginning, or, if
    it `must` be done, does it at once.
    """
    ticket, ended = [True], []

    def run(value: T) -> R:
        if not _taken(ticket):
            raise RuntimeError("the caller has left")
        try:
            return function(value)
        finally:
            ended.append(True)

    try:
        return await anyio.to_thread.run_sync(run, argument, limiter=limiter())
    except BaseException:
        if not _taken(ticket):
            with anyio.move_on_after(WAIT_S, shield=True):
                await _until(ended)
        elif must:
            function(argument)
        raise


def _taken(ticket: list[bool]) -> bool:
    """Take the one ticket; of two threads, one only gets it."""
    try:
        return ticket.pop()
    except IndexError:
        return False


async def _until(ended: list[Any]) -> None:
    while not ended:  # noqa: ASYNC110 (set from a thread that knows of no event loop)
        await anyio.sleep(0.001)
