"""Use cases whose writes share transactions with those of other requests, without a thread for each of them.

A thread for each took more time to wake and to get hold of the interpreter than the decision itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

from tappass.engine.steps import Steps, Write
from tappass.engine.store.ahead import Ask
from tappass.engine.store.group import Job
from tappass.engine.store.opening import POSTGRESQL
from tappass.engine.store.port import Store, Tx
from tappass.server.working import work

if TYPE_CHECKING:
    from tappass.server.house import House

T = TypeVar("T")


class Grouping(Protocol):
    """A store whose callers share transactions: that on PostgreSQL."""

    def submit(self, job: Job) -> None:
        """Have a job carried out, and whom it names told; waits for nothing."""


def grouping(house: House, store: Store) -> Grouping | None:
    """Return a store as one that groups, if it is."""
    return cast(Grouping, store) if house.storage == POSTGRESQL else None


class _Awaited(Job):
    """A write that a request on an event loop waits for."""

    __slots__ = ("ended",)

    def __init__(self, fn: Callable[[Tx], Any], ahead: Sequence[Ask], landing: _Landing) -> None:
        super().__init__(fn, ahead, landing)
        self.ended: asyncio.Future[None] = landing.loop.create_future()


class _Landing:
    """Where what a transaction ended comes back to an event loop: all of it in one hop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def __call__(self, jobs: list[Job]) -> None:
        # anyio's ways back from a thread wait for the loop, which is uvicorn's here.
        with contextlib.suppress(RuntimeError):  # the loop has ended, and who waited with it
            self.loop.call_soon_threadsafe(_land, jobs)


_landings: WeakKeyDictionary[asyncio.AbstractEventLoop, _Landing] = WeakKeyDictionary()


def _land(jobs: list[Job]) -> None:
    for job in cast("list[_Awaited]", jobs):
        if not job.ended.done():
            job.ended.set_result(None)


async def in_group(store: Grouping, steps: Steps[T]) -> T:
    """Carry a use case out; what it does up to its first write may ask the database nothing.

    Raises:
        Exception: whatever the use case raises.
    """
    write = _advanced(next, steps)
    while isinstance(write, Write):
        try:
            done = await _committed(store, write)
        except Exception as error:
            # From here on it may ask the database, for which only a thread may wait.
            write = await work(_advanced, steps.throw, error)
        else:
            write = _advanced(steps.send, done)
    return cast(T, write)


async def _committed(store: Grouping, write: Write) -> Any:
    loop = asyncio.get_running_loop()
    if (landing := _landings.get(loop)) is None:
        landing = _landings[loop] = _Landing(loop)
    job = _Awaited(write.fn, write.ahead, landing)
    store.submit(job)
    await job.ended
    if job.error is not None:
        raise job.error
    return job.result


def _advanced(step: Callable[[Any], Any], value: Any) -> Any:
    """Return the next write of a use case, or what it returns."""
    try:
        return step(value)
    except StopIteration as end:
        return end.value
