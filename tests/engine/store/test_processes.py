"""Forks, many processes on one file, and processes killed at random moments."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter

import pytest

from tappass.engine.audit.export import export
from tappass.engine.audit.keys import log_key
from tappass.engine.audit.verify import verify
from tappass.engine.store.sqlite import SqliteStore
from tests.engine.store.events import decide, ending, task
from tests.forks import in_child
from tests.forks import start as started

KILLS = int(os.environ.get("TAPPASS_KILLS", "30"))

CALLS = """
    import os, sys
    from tappass.engine.store.sqlite import SqliteStore
    from tests.engine.store.events import decide, ending, task

    path, journal, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    store = SqliteStore(path)
    file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for _ in range(count):
        name = task()
        decide(store, name)
        os.write(file, f"{name}\\n".encode())
        if count > 1000:
            os.fsync(file)
        store.later(ending(name))
    store.close()
"""


def start(path, journal, count):
    command = [sys.executable, "-c", textwrap.dedent(CALLS), str(path), str(journal), str(count)]
    return subprocess.Popen(command)


def verified(path, tmp_path):
    """Return the report on the log of a database."""
    with SqliteStore(path) as store, open(tmp_path / "export.jsonl", "wb") as out:
        header = export(store, out, log_key(tmp_path))
    return verify(tmp_path / "export.jsonl", header.key)


def decided(path):
    with SqliteStore(path) as store:
        leaves = [json.loads(leaf) for _, leaf, _ in store.read.leaves()]
    return {leaf["task_id"] for leaf in leaves if leaf["type"] == "call.decided"}


def test_whatever_ran_has_a_decision_after_kills_at_random_moments(path, tmp_path):
    journal = tmp_path / "ran"
    moments = random.Random(7)
    SqliteStore(path).close()
    for _ in range(KILLS):
        before = journal.stat().st_size if journal.exists() else 0
        process = start(path, journal, 1_000_000)
        while not journal.exists() or journal.stat().st_size == before:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(moments.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    ran = set(journal.read_text().splitlines())
    assert len(ran) > KILLS
    assert ran <= decided(path)
    report = verified(path, tmp_path)
    assert report.ok, report.lines()
    assert report.open


def test_eight_processes_on_one_database_write_one_contiguous_log(path, tmp_path):
    processes = [start(path, tmp_path / "ran", 100) for _ in range(8)]
    assert [each.wait(timeout=120) for each in processes] == [0] * 8
    report = verified(path, tmp_path)
    assert report.ok, report.lines()
    assert (report.events, report.open) == (1600, {})
    assert set((tmp_path / "ran").read_text().split()) == decided(path)


def test_a_fork_with_writes_waiting_writes_each_once(path):
    with SqliteStore(path) as store:
        for number in range(20):
            decide(store, f"parent {number}")
            store.later(ending(f"parent {number}"))

            def child(number=number):
                decide(store, f"child {number}")
                store.later(ending(f"child {number}"))
                store.close()

            in_child(child)
    with SqliteStore(path) as store:
        seen = Counter((each.type, each.task_id) for each in store.read.events(limit=1000))
    assert set(seen.values()) == {1}
    assert len(seen) == 80


def test_a_fork_while_another_thread_holds_the_lock_leaves_a_working_child(path, tmp_path):
    with SqliteStore(path) as store:
        running = True

        def write():
            while running:
                name = task()
                decide(store, name)
                store.later(ending(name))

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(20):
                in_child(lambda: decide(store, task()))
        finally:
            running = False
            thread.join(timeout=60)
        assert not thread.is_alive()
    report = verified(path, tmp_path)
    assert report.ok, report.lines()


def test_a_child_flushes_by_itself_without_a_call(path):
    with SqliteStore(path) as store:
        decide(store, "parent")

        def child():
            store.later(ending("parent"))
            for _ in range(500):
                with SqliteStore(path) as other:
                    if other.read.open_calls() == []:
                        return
                time.sleep(0.01)
            raise AssertionError

        in_child(child)


def test_a_child_that_outlives_its_parents_connection_loses_nothing(path):
    """SQLite's locks stay with the parent: a connection carried over would let it delete the child's log of writes."""
    ready, go = os.pipe(), os.pipe()
    store = SqliteStore(path)
    decide(store, "parent")

    def child():
        decide(store, "child 1")
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        decide(store, "child 2")

    wait = started(child)
    os.read(ready[0], 1)
    store.close()
    os.write(go[1], b"x")
    wait()
    with SqliteStore(path) as again:
        assert [each.task_id for each in again.read.events()] == ["parent", "child 1", "child 2"]


def test_a_fork_inside_a_transaction_neither_hangs_nor_writes_twice(path):
    with SqliteStore(path) as store:
        store.run(lambda tx: [ending("outer")(tx), in_child(lambda: None)])
        decide(store, "after")
        assert [each.task_id for each in store.read.events()] == ["outer", "after"]


@pytest.mark.parametrize("count", [8])
def test_concurrent_first_starts_make_one_database(path, count):
    source = """
        import sys
        from tappass.engine.store.sqlite import SqliteStore
        from tests.engine.store.events import decide
        with SqliteStore(sys.argv[1]) as store:
            decide(store, sys.argv[2])
        assert not {"sqlalchemy", "alembic"} & set(sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(source), str(path)]
    processes = [subprocess.Popen([*command, str(number)]) for number in range(count)]
    assert [each.wait(timeout=60) for each in processes] == [0] * count
    with SqliteStore(path) as store:
        assert len(store.read.heads()) == 1
        assert [each.seq for each in store.read.events()] == list(range(count))
