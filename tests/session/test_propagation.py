"""Where the active session goes by itself, and where it has to be carried."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.to_thread
import pytest

from tappass import carry, current_session, tappass_session, tappass_session_async, tool
from tests.forks import in_child


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tasks_and_anyio_threads_inherit_the_session(backend, tappass_plane):
    seen = []

    async def note() -> None:
        seen.append(current_session())
        seen.append(await anyio.to_thread.run_sync(current_session))

    async def main() -> None:
        async with tappass_session_async() as session, anyio.create_task_group() as tasks:
            tasks.start_soon(note)
            tasks.start_soon(note)
        assert seen == [session] * 4

    anyio.run(main, backend=backend)


def test_a_bare_executor_does_not_inherit_and_carry_takes_it_there(tappass_plane):
    with ThreadPoolExecutor(1) as pool, tappass_session() as session:
        assert pool.submit(current_session).result() is None
        assert pool.submit(carry(current_session)).result() is session
        assert pool.submit(current_session).result() is None


def test_calls_in_parallel_threads_never_mix_sessions(tappass_plane, audit_events):
    @tool(name="note_thread")
    def note(name: str) -> str:
        return current_session().name

    def work(name: str) -> None:
        with tappass_session(name=name):
            for _ in range(25):
                assert note(name) == name

    threads = [threading.Thread(target=work, args=(f"s{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    decided = audit_events(type="call.decided")
    assert len(decided) == 200
    assert len({e.session_id for e in decided}) == 8
    assert all(sum(e.session_id == s for e in decided) == 25 for s in {e.session_id for e in decided})


def test_two_sessions_in_one_task_group_never_mix(tappass_plane):
    async def work(name: str) -> None:
        async with tappass_session_async(name=name):
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
                assert current_session().name == name

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for i in range(6):
                tasks.start_soon(work, f"s{i}")

    anyio.run(main)


def test_a_forked_child_keeps_the_correlation_and_writes_to_the_same_log(tmp_path):
    @tool(name="note_fork")
    def note(n: int) -> int:
        return n

    with tappass_session(name="parent") as session:
        note(0)

        def child():
            assert current_session() is session
            note(1)
            session.plane.engine.store.flush()

        in_child(child)
        note(2)
    events = list(session.plane.engine.store.read.all_events())
    decided = [e for e in events if e.type == "call.decided"]
    assert len(decided) == 3
    assert {e.session_id for e in decided} == {session.session_id}
    assert [e.seq for e in list(session.plane.engine.store.read.all_events())] == list(range(len(decided) * 2 + 3))


def test_a_session_is_entered_once(tappass_plane):
    from tappass import TapPassConfigError

    unit = tappass_session()
    with unit:
        pass
    with pytest.raises(TapPassConfigError, match="entered once"), unit:
        pass
