"""Many threads decorate, call, open and close at once; finalisers run anywhere; nothing is lost, nothing hangs."""

from __future__ import annotations

import faulthandler
import gc
import threading
from collections import Counter

import anyio
import anyio.to_thread
import pytest

from tappass import PolicyBlockError, current_session, tappass_session, tool
from tappass.engine.sessions import _REMEMBERED

BLOCK = "version: 1\nrules:\n  - {id: no, tool: 'no_*', effect: block}\n"


@pytest.fixture(autouse=True)
def _watched():
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def together(work, threads: int = 8) -> None:
    """Run `work(number)` in as many threads at once; raise what any of them raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(threads)

    def run(number: int) -> None:
        try:
            barrier.wait(30)
            work(number)
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]


def test_threads_that_decorate_call_open_and_close_at_once_lose_nothing(tappass_plane, audit_events):
    tappass_plane.policy(BLOCK)

    def work(number: int) -> None:
        for turn in range(15):
            name = f"{number}_{turn}"
            yes, no = tool(name=f"yes_{name}")(lambda x: x), tool(name=f"no_{name}")(lambda x: pytest.fail("ran"))
            with tappass_session(name=name) as session:
                assert yes(turn) == turn
                for _ in range(3):
                    with pytest.raises(PolicyBlockError):
                        no(turn)
                with tappass_session() as child:
                    assert child.parent == session.session_id
                assert current_session() is session
            assert current_session() is None
            yes(turn)

    together(work)
    kinds = Counter(e.type for e in audit_events())
    assert kinds["call.decided"] == 8 * 15 * 3
    assert kinds["call.ended"] == 8 * 15 * 2
    assert kinds["session.opened"] == 8 * 15 * 2 + 1
    assert kinds["session.closed"] == 8 * 15 * 2
    assert [e.seq for e in audit_events()] == list(range(sum(kinds.values())))


def test_the_first_calls_of_many_threads_share_one_implicit_session(tappass_plane, audit_events):
    one = tool(name="one")(lambda: 1)
    together(lambda _number: one(), threads=16)
    assert len(audit_events(type="session.opened")) == 1
    assert len(audit_events(type="call.decided")) == 16


def test_the_first_connections_of_many_threads_share_one_plane():
    from tappass.plane.connect import connect

    planes = []
    together(lambda _number: planes.append(connect()))
    assert len(set(map(id, planes))) == 1
    assert [e.type for e in planes[0].engine.store.read.all_events()] == ["policy.accepted"]


def test_threads_close_more_sessions_than_are_remembered(tappass_plane):
    sessions = tappass_plane.plane.engine.sessions

    def work(_number: int) -> None:
        for _ in range(_REMEMBERED // 4):
            with tappass_session():
                pass

    together(work)
    assert len(sessions._closed) == _REMEMBERED
    assert sessions._open == {}


def test_finalisers_that_run_inside_any_call_neither_hang_nor_lose_an_ending(tappass_plane, audit_events):
    @tool(name="count")
    def count():
        yield from range(3)

    one = tool(name="one")(lambda: 1)

    def drop() -> None:
        running = count()
        next(running)
        cycle = [running]
        cycle.append(cycle)

    def work(_number: int) -> None:
        with tappass_session():
            for _ in range(25):
                drop()
                one()

    before = gc.get_threshold()
    gc.set_threshold(5, 2, 2)
    try:
        together(work, threads=4)
        anyio.run(_many, one)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    tappass_plane.plane.engine.store.flush()
    ended = Counter(e.status for e in audit_events(type="call.ended"))
    assert ended == {"abandoned": 100, "completed": 120}


async def _many(one) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(anyio.to_thread.run_sync, one)


def test_an_interrupted_thread_leaves_no_lock_behind(tappass_plane, audit_events):
    """A tool that ends its thread, or raises what nobody catches, harms nobody else."""

    def work(number: int) -> None:
        leave = tool(name=f"leave_{number}")(lambda: (_ for _ in ()).throw(SystemExit(3)))
        with pytest.raises(SystemExit), tappass_session():
            leave()

    together(work)
    tool(name="afterwards")(lambda: 1)()
    assert Counter(e.status for e in audit_events(type="call.ended")) == {"cancelled": 8, "completed": 1}
