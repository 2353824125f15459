"""PostgreSQL goes away, processes are killed, answers get lost: nothing acknowledged is, nothing is written twice."""

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

import psycopg
import pytest

from tappass.engine.store.postgres import PostgresStore
from tappass.engine.store.postgres_tx import PostgresTx
from tappass.errors import TapPassConnectionError
from tests.engine.store.events import decide, ending, event, task
from tests.engine.store.test_postgres import verified
from tests.postgres import Server, fresh_database

KILLS = int(os.environ.get("TAPPASS_KILLS", "30")) // 3

CALLS = """
    import os, sys, threading
    from tappass.engine.store.postgres import PostgresStore
    from tests.engine.store.events import decide, ending, task

    url, journal, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    store = PostgresStore(url)
    file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def call():
        for _ in range(count):
            name = task()
            decide(store, name)
            os.write(file, f"{name}\\n".encode())
            store.later(ending(name))

    threads = [threading.Thread(target=call, daemon=True) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    store.close()
"""


@pytest.fixture
def url():
    with fresh_database() as fresh:
        yield fresh


@pytest.fixture
def server():
    own = Server()
    yield own
    own.remove()


def start(url, journal, count):
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(CALLS), url, str(journal), str(count)])


def decided(store):
    leaves = [json.loads(leaf) for _, leaf, _ in store.read.leaves()]
    return {leaf["task_id"] for leaf in leaves if leaf["type"] == "call.decided"}


def test_whatever_ran_has_a_decision_after_kills_at_random_moments(url, tmp_path):
    journal, moments = tmp_path / "ran", random.Random(7)
    for _ in range(KILLS):
        before = journal.stat().st_size if journal.exists() else 0
        process = start(url, journal, 1_000_000)
        while not journal.exists() or journal.stat().st_size == before:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(moments.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    ran = set(journal.read_text().splitlines())
    assert len(ran) > KILLS
    with PostgresStore(url) as store:
        assert ran <= decided(store)
        report = verified(store, tmp_path)
    assert report.ok, report.lines()


def test_two_processes_on_one_database_write_one_contiguous_log(url, tmp_path):
    processes = [start(url, tmp_path / "ran", 100) for _ in range(2)]
    assert [each.wait(timeout=120) for each in processes] == [0, 0]
    with PostgresStore(url) as store:
        report = verified(store, tmp_path)
        assert report.ok, report.lines()
        assert (report.events, report.open) == (1600, {})
        assert set((tmp_path / "ran").read_text().split()) == decided(store)


def test_a_restart_in_the_middle_of_four_writers_loses_nothing_acknowledged(server, tmp_path):
    acknowledged, refused, stop = [], [], threading.Event()
    with server.fresh_database() as url, PostgresStore(url) as store:

        def write():
            while not stop.is_set():
                name = task()
                try:
                    decide(store, name)
                except TapPassConnectionError as error:
                    refused.append(str(error))
                    stop.wait(0.02)
                else:
                    acknowledged.append(name)
                    store.later(ending(name))

        threads = [threading.Thread(target=write) for _ in range(4)]
        for each in threads:
            each.start()
        reached(lambda: len(acknowledged) > 200)
        server.stop()
        reached(lambda: len(refused) > 8)
        during = len(acknowledged)
        server.start()
        reached(lambda: len(acknowledged) > during + 200)
        stop.set()
        for each in threads:
            each.join(10)
        store.flush()
        seen = Counter((each.type, each.task_id) for each in store.read.all_events())
        assert set(acknowledged) <= decided(store)
        assert set(seen.values()) == {1}
        assert {("call.ended", name) for name in acknowledged} <= set(seen)
        assert all("nothing ran" in each for each in refused)
        report = verified(store, tmp_path)
        assert report.ok, report.lines()


def reached(condition):
    for _ in range(4000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("not within 20 seconds")


def test_endings_wait_for_the_database_to_come_back_and_are_written_by_themselves(server):
    with server.fresh_database() as url, PostgresStore(url) as store:
        decide(store, "t")
        server.stop()
        store.later(ending("t"))
        with pytest.raises(TapPassConnectionError, match="cannot write the audit record"):
            store.flush()
        with pytest.raises(TapPassConnectionError, match="cannot read"):
            store.read.open_calls()
        server.start()
        reached(lambda: store.read.open_calls() == [])
        assert [each.type for each in store.read.all_events()] == ["call.decided", "call.ended"]


def test_listeners_hear_again_after_a_restart_and_are_told_to_look(server):
    told, heard = [], threading.Event()
    with server.fresh_database() as url, PostgresStore(url) as store:
        store.on_change(lambda *change: [told.append(change), heard.set()])
        server.stop()
        server.start()
        assert heard.wait(20)
        assert told == [("", "")]
        store.run(lambda tx: tx.notify("org_local", "approval"))
        reached(lambda: told[1:] == [("org_local", "approval")])


@pytest.mark.parametrize("written", [True, False])
def test_a_commit_without_an_answer_writes_nothing_twice(url, written, monkeypatch):
    """The server commits, or not, and the connection dies before anybody is told."""
    finish = PostgresTx.finish

    def lost(tx):
        monkeypatch.setattr(PostgresTx, "finish", finish)
        if written:
            finish(tx)
            tx._pipeline.sync()
        kill_everybody_but_this_one(url)

    with PostgresStore(url) as store:
        decide(store, "first")
        store.later(ending("first"))
        monkeypatch.setattr(PostgresTx, "finish", lost)
        decide(store, "second")
        kinds = [(each.type, each.task_id) for each in store.read.all_events()]
    assert kinds == [("call.decided", "first"), ("call.ended", "first"), ("call.decided", "second")]


def kill_everybody_but_this_one(url):
    with psycopg.connect(url, autocommit=True) as connection:
        ours = "datname = current_database() AND pid <> pg_backend_pid()"
        connection.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {ours}")


def test_a_connection_that_died_unnoticed_costs_no_caller_its_call(url):
    with PostgresStore(url) as store:
        decide(store, "before")
        store.read.heads()
        kill_everybody_but_this_one(url)
        assert decide(store, "after").seq == 1
        assert store.read.head().size == 2


def test_a_restored_backup_is_refused(url):
    with PostgresStore(url) as store:
        for number in range(3):
            decide(store, f"t{number}")
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute("DELETE FROM leaf WHERE seq > 0")
            owner.execute("UPDATE log SET size = 1")
        with pytest.raises(TapPassConnectionError, match="restoring a backup"):
            decide(store, "refused")


def in_child(action):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_fork_takes_no_connection_along_and_writes_each_once(url, tmp_path):
    with PostgresStore(url) as store:
        store.on_change(lambda *change: None)
        for number in range(5):
            decide(store, f"parent {number}")
            store.later(ending(f"parent {number}"))

            def child(number=number):
                decide(store, f"child {number}")
                store.later(ending(f"child {number}"))
                store.close()

            assert in_child(child) == 0
            assert store.read.head() is not None
        store.flush()
        seen = Counter((each.type, each.task_id) for each in store.read.all_events())
        assert set(seen.values()) == {1}
        assert len(seen) == 20
        report = verified(store, tmp_path)
        assert report.ok, report.lines()


def test_a_fork_while_other_threads_write_leaves_a_working_child(url, tmp_path):
    running = True
    with PostgresStore(url) as store:

        def write():
            while running:
                decide(store, task())

        threads = [threading.Thread(target=write) for _ in range(3)]
        for each in threads:
            each.start()
        try:
            assert [in_child(lambda: decide(store, task())) for _ in range(10)] == [0] * 10
        finally:
            running = False
            for each in threads:
                each.join()
        report = verified(store, tmp_path)
        assert report.ok, report.lines()


def test_what_cannot_be_told_from_text_is_its_callers_fault_alone(url):
    with PostgresStore(url) as store:
        with pytest.raises(psycopg.DataError):
            store.run(lambda tx: tx.execute("INSERT INTO setting (org_id, key) VALUES (?, ?)", ("org_local", "a\0b")))
        assert store.run(lambda tx: tx.append(event(task_id="after"))).seq == 0
