"""Every ending arrives exactly once and in order, whatever happens to the server or to the agent's process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tappass import TapPassConnectionError, current_session, tappass_session, tappass_session_async, tool
from tappass.engine.store.sqlite import SqliteStore
from tappass.plane.connect import connect
from tappass.session.registry import registry
from tests.recovery.troubling import Proxy, at_times, troubled
from tests.serving import Served, python_path, serve

CALLS, SESSIONS = int(os.environ.get("TAPPASS_CALLS", "5000")), 10
AWAY_S = float(os.environ.get("TAPPASS_AWAY_S", "30"))

pytestmark = pytest.mark.alone


class Place:
    """A server, trouble on the way to it, and an agent's key."""

    def __init__(self, served: Served, proxy: Proxy) -> None:
        self.served, self.proxy = served, proxy
        self.url = f"http://127.0.0.1:{proxy.port}"
        answer = httpx.post(
            f"{served.url}/agents/register",
            json={"agent_id": "worker"},
            headers={"authorization": f"Bearer {served.admin_key}"},
            trust_env=False,
        )
        self.key: str = answer.json()["api_key"]

    def delivered(self) -> None:
        """Wait until the outbox of this process is empty."""
        plane: Any = connect(self.url, self.key)
        assert plane.delivery.wait_for(2**62, 60) or plane.delivery.wait_for(2**62, 60)

    def log(self) -> list[Any]:
        """Return every event of the server's log."""
        store = SqliteStore(self.served.directory / ".tappass" / "tappass.db")
        try:
            return list(store.read.all_events())
        finally:
            store.close()

    def agent(self, *words: str) -> subprocess.Popen[str]:
        """Start an agent's process in this directory."""
        script = Path(__file__).with_name("outboxed.py")
        env = os.environ | {"TAPPASS_URL": self.url, "TAPPASS_API_KEY": self.key, "PYTHONPATH": python_path()}
        return subprocess.Popen(
            [sys.executable, str(script), *words], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )


@pytest.fixture
def place(tmp_path) -> Iterator[Place]:
    directory = tmp_path / "server"
    directory.mkdir()
    with serve(directory) as served, troubled(served.port) as proxy:
        yield Place(served, proxy)
        registry.shutdown()


@tool(name="work_through_trouble")
async def work(tasks: list[str]) -> None:
    session = current_session()
    assert session is not None
    tasks.append(session.task_id)


def check(log: list[Any], ran: dict[str, list[str]]) -> None:
    """Check that each call that ran has one ending, in the order of its session, and that nothing ended twice."""
    ended = [event for event in log if event.type == "call.ended"]
    twice = [task for task, count in Counter(event.task_id for event in ended).items() if count > 1]
    assert twice == []
    allowed = {event.task_id for event in log if event.type == "call.decided" and event.outcome == "allow"}
    assert {event.task_id for event in ended} <= allowed
    for session_id, tasks in ran.items():
        known = set(tasks)
        arrived = [event.task_id for event in ended if event.session_id == session_id and event.task_id in known]
        assert arrived == tasks
    assert [event.seq for event in log] == list(range(len(log)))
    assert not [event for event in log if event.type == "delivery.rejected"]


def test_thousands_of_endings_arrive_once_and_in_order_while_the_server_fails_dies_and_stays_away(place):
    ran: dict[str, list[str]] = {}
    refusals = Counter[str]()

    async def agent() -> None:
        async with tappass_session_async(url=place.url, api_key=place.key) as session:
            mine = ran.setdefault(session.session_id, [])
            while len(mine) < CALLS // SESSIONS:
                try:
                    await work(mine)
                except TapPassConnectionError as error:
                    refusals[str(error)] += 1

    async def agents() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(SESSIONS):
                group.start_soon(agent)

    def trouble() -> None:
        def done() -> int:
            return sum(map(len, ran.values()))

        while done() < CALLS // 5:
            time.sleep(0.01)
        place.served.kill()
        place.served.start()
        while done() < CALLS // 2:
            time.sleep(0.01)
        place.served.stop()
        time.sleep(AWAY_S)
        place.served.start()

    place.proxy.trouble = at_times(0.05)
    troubles = threading.Thread(target=trouble)
    troubles.start()
    anyio.run(agents)
    troubles.join()
    place.proxy.trouble = at_times(0)
    place.delivered()
    assert sum(map(len, ran.values())) == CALLS
    assert all("nothing ran" in refusal for refusal in refusals)
    log = place.log()
    check(log, ran)
    closed = [event.session_id for event in log if event.type == "session.closed"]
    assert sorted(closed) == sorted(ran)


@pytest.mark.parametrize("then", ["hang", "exit"])
def test_what_a_process_leaves_behind_is_delivered_by_the_next_one(place, then):
    place.proxy.trouble = lambda path: "before" if path == "/v1/endings" else "pass"
    process = place.agent("200", then)
    assert process.stdout is not None
    assert process.stderr is not None
    session_id, *tasks, _done = (line.strip() for _, line in zip(range(202), process.stdout, strict=False))
    if then == "hang":
        process.send_signal(signal.SIGKILL)
    out, errors = process.communicate(timeout=60)
    left = 200 + (then == "exit")
    assert (f"{left} endings for 127.0.0.1:{place.proxy.port} wait in " in errors) == (then == "exit")
    assert place.key not in out + errors
    assert len(tasks) == 200
    assert [event for event in place.log() if event.type == "call.ended"] == []
    place.proxy.trouble = at_times(0)
    connect(place.url, place.key)
    place.delivered()
    check(place.log(), {session_id: tasks})


def test_a_full_outbox_refuses_new_calls_until_it_is_delivered(place, monkeypatch):
    monkeypatch.setenv("TAPPASS_OUTBOX_LIMIT", "50")
    place.proxy.trouble = lambda path: "before" if path == "/v1/endings" else "pass"
    tasks = []

    @tool(name="work_until_full")
    def until_full() -> None:
        session = current_session()
        assert session is not None
        tasks.append(session.task_id)

    with tappass_session(url=place.url, api_key=place.key) as session:
        with pytest.raises(TapPassConnectionError, match=r"is full: 50 endings wait .* nothing ran; .* raise TAPPASS"):
            for _ in range(60):
                until_full()
        assert len(tasks) == 50
        place.proxy.trouble = at_times(0)
        place.delivered()
        until_full()
    check(place.log(), {session.session_id: tasks})


def test_processes_that_share_an_outbox_deliver_each_entry_once(place):
    agents = [place.agent("150", "exit") for _ in range(3)]
    ran = {}
    for process in agents:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        session_id, *tasks, _done = out.split()
        ran[session_id] = tasks
    place.delivered()
    check(place.log(), ran)


def test_a_forked_child_asks_and_delivers_on_its_own(place, tmp_path):
    tasks = tmp_path / "tasks.txt"

    @tool(name="work_in_a_fork")
    def forked() -> None:
        session = current_session()
        assert session is not None
        with tasks.open("a") as file:
            file.write(json.dumps([session.session_id, session.task_id]) + "\n")

    with tappass_session(url=place.url, api_key=place.key):
        forked()
        for _ in range(5):
            forked()
            if (pid := os.fork()) == 0:
                code = 1
                try:
                    with tappass_session(url=place.url, api_key=place.key):
                        for _ in range(20):
                            forked()
                    plane: Any = connect(place.url, place.key)
                    code = 0 if plane.delivery.wait_for(2**62, 20) else 2
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0
    place.delivered()
    ran: dict[str, list[str]] = {}
    for line in tasks.read_text().splitlines():
        session_id, task_id = json.loads(line)
        ran.setdefault(session_id, []).append(task_id)
    assert sum(map(len, ran.values())) == 106
    check(place.log(), ran)
