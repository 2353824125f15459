"""Cancelled and dropped calls lose nothing."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import anyio
import pytest

from tappass import tool


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancelling_a_governed_coroutine_settles_it_as_cancelled(backend, tappass_plane, audit_events):
    @tool(name=f"wait_{backend}")
    async def wait() -> None:
        await anyio.sleep_forever()

    async def main() -> None:
        with anyio.move_on_after(0.05) as scope:
            await wait()
        assert scope.cancelled_caught

    anyio.run(main, backend=backend)
    assert [e.status for e in audit_events(type="call.ended")] == ["cancelled"]


def test_asyncios_own_cancel_keeps_its_error_and_settles(tappass_plane, audit_events):
    @tool(name="wait_native")
    async def wait() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(wait())
        await asyncio.sleep(0.05)
        task.cancel("mine")
        with pytest.raises(asyncio.CancelledError, match="mine"):
            await task

    asyncio.run(main())
    assert [e.status for e in audit_events(type="call.ended")] == ["cancelled"]


@pytest.mark.parametrize("delay_s", [0, 0.0002, 0.001, 0.003])
def test_a_cancel_while_the_decision_is_written_leaves_no_open_call(delay_s, tappass_plane, audit_events):
    @tool(name="never_long")
    async def run() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        for _ in range(10):
            task = asyncio.get_running_loop().create_task(run())
            await asyncio.sleep(delay_s)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    decided = {e.task_id for e in audit_events(type="call.decided")}
    ended = {e.task_id for e in audit_events(type="call.ended", status="cancelled")}
    assert decided == ended


def _started(tappass_plane: object) -> Callable[[], object]:
    @tool(name="count")
    def count():
        yield from range(10)

    return count


def test_a_stream_dropped_in_the_middle_settles_as_abandoned(tappass_plane, audit_events):
    running = _started(tappass_plane)()
    assert next(running) == 0
    running.close()
    assert [e.status for e in audit_events(type="call.ended")] == ["abandoned"]


def test_a_stream_dropped_by_garbage_collection_settles_as_abandoned(tappass_plane, audit_events):
    running = _started(tappass_plane)()
    next(running)
    cycle = [running]
    cycle.append(cycle)
    del running, cycle
    gc.collect()
    assert [e.status for e in audit_events(type="call.ended")] == ["abandoned"]


def test_a_stream_dropped_before_its_first_item_settles_as_abandoned(tappass_plane, audit_events):
    @tool(name="slow")
    async def slow():
        await anyio.sleep_forever()
        yield 1

    async def main() -> None:
        stream = slow()
        with anyio.move_on_after(0.05):
            await anext(stream)
        await stream.aclose()

    anyio.run(main)
    assert [e.status for e in audit_events(type="call.ended")] == ["cancelled"]
    never_started = _started(tappass_plane)()
    del never_started
    gc.collect()
    assert len(audit_events(type="call.decided")) == 1, "what was never asked for was never decided"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_stream_closed_early_settles_as_abandoned(backend, tappass_plane, audit_events):
    closed = []

    @tool(name=f"acount_{backend}")
    async def acount():
        try:
            for i in range(10):
                yield i
        finally:
            closed.append(True)

    async def main() -> None:
        stream = acount()
        assert await anext(stream) == 0
        await stream.aclose()

    anyio.run(main, backend=backend)
    assert closed == [True]
    assert [e.status for e in audit_events(type="call.ended")] == ["abandoned"]


def test_a_coroutine_closed_while_it_waits_settles_as_abandoned(tappass_plane, audit_events):
    from tappass import current_session, tappass_session

    class Never:
        def __await__(self):
            yield

    @tool(name="hang")
    async def hang() -> None:
        await Never()

    # Inside a session and driven by hand: no event loop to hop from, so decide on this thread.
    with tappass_session() as session:
        plane = session.plane
        real, plane.aio.decide = plane.aio.decide, _immediately(plane.sync.decide)
        try:
            coroutine = hang()
            coroutine.send(None)
            coroutine.close()
        finally:
            plane.aio.decide = real
        assert current_session() is session
    assert [e.status for e in audit_events(type="call.ended")] == ["abandoned"]


def _immediately(function):
    async def call(argument):
        return function(argument)

    return call
