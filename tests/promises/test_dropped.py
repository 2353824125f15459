"""An async stream or call that nobody finishes settles as abandoned, on either event loop."""

from __future__ import annotations

import gc

import anyio
import pytest

from tappass import tool

# trio says of its own accord when a generator is left to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("taken", [0, 1, 2])
def test_an_async_stream_that_is_garbage_collected_settles_as_abandoned(backend, taken, tappass_plane, audit_events):
    closed = []

    @tool(name="acount")
    async def acount():
        try:
            for number in range(10):
                yield number
                await anyio.lowlevel.checkpoint()
        finally:
            closed.append(True)

    async def main() -> None:
        running = acount()
        for number in range(taken):
            assert await anext(running) == number
        cycle = [running]
        cycle.append(cycle)
        del running, cycle
        gc.collect()
        for _ in range(10):
            await anyio.sleep(0.005)

    anyio.run(main, backend=backend)
    gc.collect()
    assert closed == ([True] if taken else [])
    assert [e.status for e in audit_events(type="call.ended")] == (["abandoned"] if taken else [])
    assert len(audit_events(type="call.decided")) == bool(taken)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_stream_whose_consumer_is_cancelled_is_settled_and_closed(backend, tappass_plane, audit_events):
    closed = []

    @tool(name="aslow")
    async def aslow():
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            closed.append(True)

    async def main() -> None:
        with anyio.move_on_after(0.05) as scope:
            async for _ in aslow():
                pass
        assert scope.cancelled_caught

    anyio.run(main, backend=backend)
    assert closed == [True]
    assert [e.status for e in audit_events(type="call.ended")] == ["cancelled"]
