"""Two servers over one PostgreSQL are one control plane: one log, and what people decide holds on both at once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tappass.engine.audit.export import export
from tappass.engine.audit.keys import log_key
from tappass.engine.audit.verify import verify
from tappass.engine.store.postgres import PostgresStore
from tappass.wire.events import AuditEvent
from tests.postgres import Server
from tests.serving import Served, python_path, serve

CLIENTS, CALLS = 32, 25
POLICY = """
version: 1
rules:
  - {id: big-payments, tool: pay, when: args.amount > 100, effect: require_approval}
"""
SOON_S = 1.0


class Pair:
    """Two servers, and what an operator does beside them."""

    def __init__(self, postgres: Server, url: str, state: Path, first: Served, second: Served) -> None:
        self.postgres, self.database, self.servers = postgres, url, (first, second)
        self.state = state
        self.admin_key = first.admin_key or second.admin_key

    def client(self, server: int, key: str) -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.servers[server].url, headers=headers, timeout=40, trust_env=False)

    def register(self, name: str) -> dict[str, Any]:
        with self.client(0, self.admin_key) as admin:
            answer = admin.post("/agents/register", json={"agent_id": name})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def tappass(self, *words: str) -> str:
        """Run a command as an operator with the admin key would, beside the servers."""
        done = subprocess.run(
            [sys.executable, "-m", "tappass", *words, "--database", self.database],
            cwd=self.servers[0].directory,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": python_path(), "TAPPASS_ADMIN_KEY": self.admin_key},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def key(self, scope: str, name: str) -> str:
        return json.loads(self.tappass("keys", "create", "--scope", scope, "--for", name, "--json"))["key"]


@contextmanager
def _pair(directory: Path, postgres: Server, url: str) -> Iterator[Pair]:
    homes = [directory / name for name in ("one", "two")]
    for home in homes:
        home.mkdir()
        (home / "policy.yaml").write_text(POLICY)
    state = ["--state", str(directory / "state")]
    with (
        serve(homes[0], database=url, words=state) as first,
        serve(homes[1], database=url, words=state) as second,
    ):
        yield Pair(postgres, url, directory / "state", first, second)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    postgres = Server()
    try:
        with postgres.fresh_database() as url, _pair(tmp_path_factory.mktemp("pair"), postgres, url) as made:
            yield made
    finally:
        postgres.remove()


def decide(client: httpx.Client, behavior_id: str, tool: str = "look", **args: Any) -> httpx.Response:
    body = {
        "type": "TOOL_CALL",
        "agent_id": "",
        "session_id": "",
        "org_id": "",
        "behavior_id": behavior_id,
        "capabilities": ["redact_arguments", "scan_result"],
        "payload": {"tool": tool, "args": args, "server": None},
    }
    return client.post("/v1/govern", json=body)


def whole(pair: Pair) -> list[AuditEvent]:
    """Return the log, having looked that it is contiguous and verifies offline."""
    store = PostgresStore(pair.database)
    try:
        events = list(store.read.all_events())
        export_file = pair.state / "export.jsonl"
        with export_file.open("wb") as file:
            header = export(store, file, log_key(pair.state))
    finally:
        store.close()
    assert [event.seq for event in events] == list(range(len(events)))
    report = verify(export_file, header.key)
    assert report.ok, report.lines()
    return events


@pytest.mark.alone
def test_thirty_two_clients_of_two_servers_write_one_contiguous_log_that_verifies(pair: Pair) -> None:
    keys = [pair.register(f"client-{n}")["api_key"] for n in range(4)]

    def work(number: int) -> list[str]:
        made = []
        with pair.client(number % 2, keys[number % 4]) as client:
            for call in range(CALLS):
                task = f"tsk_{number}_{call}"
                answer = decide(client, task, n=call)
                assert (answer.status_code, answer.json()["outcome"]) == (200, "allow"), answer.text
                made.append(task)
        return made

    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [task for tasks in pool.map(work, range(CLIENTS)) for task in tasks]
    decided = [event.task_id for event in whole(pair) if event.type == "call.decided"]
    assert sorted(task for task in decided if task in set(asked)) == sorted(asked)


@pytest.mark.alone
def test_an_approval_given_on_one_server_wakes_a_waiter_on_the_other_within_a_second(pair: Pair) -> None:
    agent = pair.register("payer")
    approver = pair.key("approver", "ada")
    with pair.client(0, agent["api_key"]) as asking, pair.client(1, approver) as person:
        held = decide(asking, "tsk_pay", tool="pay", amount=500).json()
        assert held["outcome"] == "needs_approval"
        request_id = held["approval"]["request_id"]
        woken: list[tuple[float, Any]] = []

        def wait() -> None:
            answer = asking.get(f"/v1/me/approvals/{request_id}/wait", params={"timeout_seconds": 30})
            woken.append((time.monotonic(), answer))

        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.5)  # long enough that the waiter waits; it would be told at once otherwise
        approve(person, approver, request_id)
        approved_at = time.monotonic()
        waiter.join(20)
    ((woken_at, answer),) = woken
    assert answer.json()["state"] == "approved"
    assert woken_at - approved_at < SOON_S


def approve(person: httpx.Client, key: str, request_id: str) -> None:
    """Agree at the page, as a person does, without a browser."""
    own = {"origin": str(person.base_url).rstrip("/")}
    assert person.post("/login", data={"key": key, "next": "/approvals"}, headers=own).status_code == 303
    csrf = re.search('name="csrf" value="([^"]+)"', person.get(f"/approvals/{request_id}").text)
    assert csrf is not None
    vote = {"csrf": csrf[1], "vote": "approve", "reason": "it is the invoice's amount"}
    assert person.post(f"/approvals/{request_id}/vote", data=vote, headers=own).status_code == 303


@pytest.mark.alone
def test_a_revoked_key_is_refused_by_both_servers_within_a_second(pair: Pair) -> None:
    agent = pair.register("leaver")
    for server in (0, 1):
        with pair.client(server, agent["api_key"]) as client:
            assert decide(client, f"tsk_before_{server}").status_code == 200
    pair.tappass("keys", "revoke", agent["key_id"])
    revoked_at = time.monotonic()
    for server in (0, 1):
        with pair.client(server, agent["api_key"]) as client:
            while (status := decide(client, f"tsk_after_{time.monotonic_ns()}").status_code) != 401:
                assert status == 200
                assert time.monotonic() - revoked_at < SOON_S


@pytest.mark.alone
def test_postgresql_restarted_in_the_middle_loses_nothing_acknowledged_and_service_returns(pair: Pair) -> None:
    key = pair.register("steady")["api_key"]
    acknowledged: list[str] = []
    stop = threading.Event()

    def work(number: int) -> None:
        with pair.client(number % 2, key) as client:
            for call in range(10_000):
                if stop.is_set():
                    return
                answer = decide(client, task := f"tsk_restart_{number}_{call}")
                assert answer.status_code in (200, 503), answer.text
                if answer.status_code == 200:
                    acknowledged.append(task)
                else:
                    time.sleep(0.05)

    with ThreadPoolExecutor(8) as pool:
        working = [pool.submit(work, number) for number in range(8)]
        try:
            _until(lambda: len(acknowledged) > 100)
            pair.postgres.stop()
            before = len(acknowledged)
            time.sleep(1)
            pair.postgres.start()
            _until(lambda: len(acknowledged) > before + 100)
        finally:
            stop.set()
        for each in working:
            each.result(60)
    decided = [event.task_id for event in whole(pair) if event.type == "call.decided"]
    assert set(acknowledged) <= set(decided)
    assert len(decided) == len(set(decided))


def _until(done: Any, most_s: float = 60.0) -> None:
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < most_s, "service did not return"
        time.sleep(0.02)
