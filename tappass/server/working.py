"""Work that waits for the database, off the event loop, on a bounded number of threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from tappass.engine.store.opening import SQLITE

if TYPE_CHECKING:
    from tappass.server.house import House

P = ParamSpec("P")
R = TypeVar("R")

# As many as one group commit on PostgreSQL is worth; SQLite has one writer, so there more would only wait.
THREADS = 32
# What is larger takes its time to be read by the detectors.
BRIEF_BYTES = 16_384

_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("tappass_server_limiter")


def is_brief(house: House, body: bytes) -> bool:
    """Tell whether an engine call takes less than the hop to a thread: SQLite answers from this very process.

    Measured: a decision takes 0.2 ms, the hop 0.3 to 0.6 under load: threads take the interpreter from one another.
    """
    return house.storage == SQLITE and len(body) <= BRIEF_BYTES


async def work(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function that waits for the database, on a thread; whoever leaves meanwhile, it is done to the end."""
    return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), limiter=_threads())


def _threads() -> anyio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        _limiter.set(made := anyio.CapacityLimiter(THREADS))
        return made
