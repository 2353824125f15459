"""Work that waits for the database, off the event loop, on a bounded number of threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

P = ParamSpec("P")
R = TypeVar("R")

# As many as one group commit on PostgreSQL is worth; SQLite has one writer, so there more would only wait.
THREADS = 32

_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("tappass_server_limiter")


async def work(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function that waits for the database, on a thread; whoever leaves meanwhile, it is done to the end."""
    return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), limiter=_threads())


def _threads() -> anyio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        _limiter.set(made := anyio.CapacityLimiter(THREADS))
        return made
