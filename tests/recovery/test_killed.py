"""Nothing runs without a durable record of its decision, whenever the process dies."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tappass import tappass_session, tool
from tappass.engine.audit.report import Report
from tappass.plane.connect import connect
from tests.forks import in_child
from tests.recovery.verifying import verify_plane

KILLS = int(os.environ.get("TAPPASS_KILLS", "200"))
PARALLEL = 4


def events(directory: Path) -> list:
    plane = connect(f"sqlite:///{directory}/.tappass/tappass.db")
    plane.engine.store.flush()
    return list(plane.engine.store.read.all_events())


def start(directory: Path) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("killed.py")
    return subprocess.Popen(
        [sys.executable, str(script), str(directory / "ran.txt")], cwd=directory, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.alone
def test_whatever_ran_before_a_kill_has_a_decided_leaf_and_the_log_verifies(tmp_path):
    chance = random.Random(7)
    for _ in range(KILLS // PARALLEL):
        processes = [start(tmp_path) for _ in range(PARALLEL)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            time.sleep(chance.random() * 0.02)
            process.send_signal(signal.SIGKILL)
        for process in processes:
            assert process.wait(timeout=60) == -signal.SIGKILL
            process.stdout.close()
    ran = (tmp_path / "ran.txt").read_text().split()
    log = events(tmp_path)
    decided = {e.task_id for e in log if e.type == "call.decided" and e.outcome == "allow"}
    ended = {e.task_id for e in log if e.type == "call.ended"}
    assert len(ran) > KILLS, "the kills came too early to show anything"
    assert set(ran) <= decided
    assert len(ran) == len(set(ran))
    assert ended <= decided
    assert [e.seq for e in log] == list(range(len(log)))
    report = verified(tmp_path)
    assert {call.task_id for calls in report.open.values() for call in calls} == decided - ended


def verified(directory: Path) -> Report:
    return verify_plane(connect(f"sqlite:///{directory}/.tappass/tappass.db"), directory)


def _work(directory: Path, calls: int) -> None:
    os.chdir(directory)

    @tool(name="work")
    def work(n: int) -> int:
        return n

    with tappass_session(name=f"p{os.getpid()}"):
        for n in range(calls):
            work(n)


@pytest.mark.alone
def test_eight_processes_write_one_contiguous_log_that_verifies(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work, args=(tmp_path, 100)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    log = events(tmp_path)
    assert [e.seq for e in log] == list(range(len(log)))
    assert len([e for e in log if e.type == "call.decided"]) == 800
    assert len({e.task_id for e in log if e.type == "call.ended"}) == 800
    assert verified(tmp_path).open == {}


@pytest.mark.alone
def test_a_child_forked_while_others_write_works_and_writes_no_leaf_twice(tmp_path):
    os.chdir(tmp_path)

    @tool(name="busy")
    def busy(n: int) -> int:
        return n

    def child() -> None:
        busy(2)
        connect().engine.store.flush()

    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            # Opening reads the accepted policy: readers, too, wait for a fork to be over.
            with tappass_session(name="thread"):
                for _ in range(5):
                    busy(1)

    with tappass_session(name="parent"):
        threads = [threading.Thread(target=spin, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                in_child(child)
        finally:
            stop.set()
            for thread in threads:
                thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads), "a thread waits for a lock that nobody releases"
    log = events(tmp_path)
    keys = [(e.task_id, e.type) for e in log if e.task_id]
    assert len(keys) == len(set(keys))
    assert [e.seq for e in log] == list(range(len(log)))
    assert verified(tmp_path)
