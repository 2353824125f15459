"""`tappass serve`: up soon, one admin key, stopped gracefully, several workers, any database, a log without secrets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psycopg
import pytest

from tappass import TapPass, tappass_session, tool
from tappass.engine.store.sqlite import SqliteStore
from tappass.errors import TapPassConfigError
from tappass.server.serve import Serving, prepare
from tappass.session.registry import registry
from tappass.toolspec import release_names
from tests import postgres
from tests.serving import Served, free_port, python_path, serve


@pytest.mark.alone
def test_a_server_with_nothing_to_configure_is_ready_and_says_what_it_is(tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        health = httpx.get(f"{served.url}/health").json()
        assert httpx.get(f"{served.url}/ready").json() == {"status": "ready"}
    assert (health["status"], health["storage"], health["agents"]) == ("ok", "sqlite", 0)
    assert [int(part) for part in health["version"].split(".")] >= [0, 6, 0]
    assert health["uptime_seconds"] >= 0


def test_the_first_start_prints_an_admin_key_and_no_later_one_does(tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        key = served.admin_key
        with TapPass(served.url, admin_key=key) as admin:
            admin.register_agent("clerk")
        assert served.output.count(key) == 1
        served.output = ""
        served.restart()
        assert "tp_admin_" not in served.output
        with TapPass(served.url, admin_key=key) as admin:
            assert admin.health().agents == 1
        assert served.stop() == 0
        assert key not in served.errors


def test_what_was_recorded_embedded_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    @tool
    def ping() -> str:
        return "pong"

    with tappass_session(agent="clerk"):
        ping()
    registry.shutdown()
    release_names()
    with serve(tmp_path) as served, TapPass(served.url) as admin:
        assert admin.health().agents == 1
    store = SqliteStore(tmp_path / ".tappass" / "tappass.db")
    types = [event.type for event in store.read.all_events()]
    assert types.count("policy.accepted") == 1
    assert "call.ended" in types
    assert store.read.checkpoints()
    store.close()


def test_a_change_of_policy_does_not_rule_because_a_server_starts(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("version: 1\ndefault: allow\n")
    with serve(tmp_path) as served:
        assert httpx.get(f"{served.url}/health").json()["warnings"] == []
        served.stop()
        (tmp_path / "policy.yaml").write_text("version: 1\ndefault: block\n")
        served.start()
        assert "wait to be accepted" in httpx.get(f"{served.url}/health").json()["warnings"][0]
        assert "changed on disk" in served.errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_calls_in_flight_end_before_it_stops(tmp_path: Path, number: int) -> None:
    with serve(tmp_path) as served:
        answers: list[httpx.Response] = []

        def slowly() -> None:
            def body() -> object:
                yield b'{"agent_id": '
                sent.set()
                time.sleep(0.5)
                yield b'"slow"}'

            headers = {"Authorization": f"Bearer {served.admin_key}", "Content-Type": "application/json"}
            answers.append(httpx.post(f"{served.url}/agents/register", content=body(), headers=headers))

        sent, caller = threading.Event(), threading.Thread(target=slowly)
        caller.start()
        sent.wait(5)
        time.sleep(0.1)
        served.process.send_signal(number)
        caller.join(10)
        assert served.process.wait(10) == 0
    assert answers[0].json()["agent_id"] == "slow"


def test_several_workers_serve_one_database_and_one_that_dies_is_replaced(tmp_path: Path) -> None:
    with serve(tmp_path, workers=2) as served:
        with TapPass(served.url, admin_key=served.admin_key) as admin:
            made = admin.register_agent("clerk")
        children = _children(served)
        assert len(children) == 2
        os.kill(children[0], signal.SIGKILL)
        for _ in range(10):
            with TapPass(served.url, admin_key=served.admin_key) as admin:
                assert admin.agent(made.agent_uuid).agent_id == "clerk"
        numbers = httpx.get(f"{served.url}/metrics", headers={"Authorization": f"Bearer {served.admin_key}"}).text
        assert 'tappass_requests_total{method="GET",route="/agents/{agent_uuid}",status="200"} 10.0' in numbers
        assert served.stop() == 0


def test_workers_end_when_who_started_them_is_killed(tmp_path: Path) -> None:
    with serve(tmp_path, workers=2) as served:
        children = _children(served)
        os.kill(served.process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 15
        while any(_runs(child) for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        served.kill()


def test_it_serves_postgresql(tmp_path: Path) -> None:
    with postgres.fresh_database() as url, serve(tmp_path, database=url) as served:
        with TapPass(served.url, admin_key=served.admin_key) as admin:
            made = admin.register_agent("clerk")
            assert admin.agent(made.agent_uuid).agent_id == "clerk"
            assert (admin.health().storage, admin.health().agents) == ("postgresql", 1)
        served.stop()


def test_an_address_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        done = _run(tmp_path, "--port", str(served.port))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--port" in done.stderr


def test_a_check_of_a_fresh_directory_passes_and_makes_nothing(tmp_path: Path) -> None:
    done = _run(tmp_path, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / ".tappass").exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("policy.yaml", "version: 1\nrules: [{id: x, effect: explode}]\n", "policy.yaml"),
        ("tappass.toml", "[server]\nurl = 'ftp://x'\n", "server.url"),
        ("tappass.toml", "[server]\nport = 1\n", "server.port"),
        (".tappass/log.key", "nonsense", "log.key"),
        (".tappass/tappass.db", "nonsense", "tappass.db"),
    ],
)
def test_a_check_finds_what_would_fail(tmp_path: Path, name: str, content: str, told: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    path.chmod(0o600)
    done = _run(tmp_path, "--check")
    assert done.returncode == 1, done.stdout + done.stderr
    assert told in next(line for line in done.stdout.splitlines() if line.startswith("problem"))


def test_a_key_that_others_can_read_fails_the_check(tmp_path: Path) -> None:
    with serve(tmp_path):
        pass
    assert _run(tmp_path, "--check").returncode == 0
    (tmp_path / ".tappass" / "log.key").chmod(0o644)
    done = _run(tmp_path, "--check")
    assert done.returncode == 1
    assert "chmod 600" in done.stdout


def test_a_check_looks_at_postgresql(tmp_path: Path) -> None:
    with postgres.fresh_database() as url:
        assert "without tables" in _run(tmp_path, "--check", "--database", url).stdout
    nowhere = f"postgresql://ada:s3cret@127.0.0.1:{free_port()}/tappass"
    done = _run(tmp_path, "--check", "--database", nowhere)
    assert done.returncode == 1
    assert "s3cret" not in done.stdout + done.stderr


def test_an_unknown_database_is_refused_without_its_password(tmp_path: Path) -> None:
    done = _run(tmp_path, "--database", "mysql://ada:s3cret@db/tappass")
    assert done.returncode == 2
    assert "s3cret" not in done.stdout + done.stderr


def test_every_line_of_the_log_is_json_with_ids_and_without_keys(tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        key, wrong = served.admin_key, "tp_admin_wrong-but-secret"
        with TapPass(served.url, admin_key=key) as admin:
            made = admin.register_agent("clerk", description="a payload of ours")
        asked = {
            "type": "TOOL_CALL",
            "behavior_id": "tsk_1",
            "payload": {"tool": "pay", "args": {"to": "a payload of ours"}},
        }
        own = {"Authorization": f"Bearer {made.api_key}"}
        decided = httpx.post(f"{served.url}/v1/govern", json=asked, headers=own).json()
        bearer = {"Authorization": f"Bearer {wrong}"}
        httpx.get(f"{served.url}/agents/x?key={wrong}", headers=bearer)
        httpx.get(f"{served.url}/{wrong}")
        served.stop()
    lines = [json.loads(line) for line in served.errors.splitlines() if line.startswith("{")]
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["route"], line["status"]) for line in requests if line["route"] != "/health"] == [
        ("/agents/register", 200),
        ("/v1/govern", 200),
        ("/agents/{agent_uuid}", 401),
        ("unmatched", 404),
    ]
    (call,) = [line for line in requests if line["route"] == "/v1/govern"]
    assert (call["session_id"], call["task_id"]) == (decided["session_id"], "tsk_1")
    assert all({"request_id", "duration_ms", "client", "timestamp", "level"} <= set(line) for line in requests)
    assert [line["key_id"] for line in requests if line["status"] == 200 and "key_id" in line]
    for secret in (key, made.api_key, wrong, "a payload of ours"):
        assert secret not in served.errors


def test_every_decision_is_counted_and_named_in_the_log_whichever_way_it_was_answered(tmp_path: Path) -> None:
    asked = {"type": "TOOL_CALL", "payload": {"tool": "look"}, "capabilities": ["redact_arguments", "scan_result"]}
    authzen = {"subject": {"type": "agent", "id": "clerk"}, "action": {"name": "look"}}
    with serve(tmp_path) as served:
        with TapPass(served.url, admin_key=served.admin_key) as admin:
            key = admin.register_agent("clerk").api_key
        with httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {key}"}) as client:
            for number in range(4):
                answer = client.post("/v1/govern", json=asked | {"behavior_id": f"tsk_{number}"})
                assert answer.json()["outcome"] == "allow"
            other = client.post("/access/v1/evaluation", json=authzen | {"resource": {"type": "tool", "id": "look"}})
            # One who scans no results may not run what is scanned by default.
            assert other.json()["context"]["outcome"] == "block"
        told = httpx.get(f"{served.url}/metrics", headers={"Authorization": f"Bearer {served.admin_key}"}).text
        served.stop()
    lines = [json.loads(line) for line in served.errors.splitlines() if line.startswith("{")]
    named = [line["task_id"] for line in lines if line.get("route") in ("/v1/govern", "/access/v1/evaluation")]
    assert named == ["tsk_0", "tsk_1", "tsk_2", "tsk_3", other.json()["context"]["task_id"]]
    assert 'tappass_decisions_total{outcome="allow"} 4.0' in told
    assert 'tappass_decisions_total{outcome="block"} 1.0' in told


def _run(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tappass", "serve", *words]
    env = os.environ | {"PYTHONPATH": python_path()}
    return subprocess.run(command, cwd=directory, env=env, text=True, capture_output=True, timeout=60, check=False)


def _children(served: Served) -> list[int]:
    """Return the workers: those that Python's own spawning started, without its tracker of resources."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == served.process.pid and b"spawn_main" in command:
                found.append(int(entry.name))
    return found


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_servers_of_one_database_have_the_same_keys(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with postgres.fresh_database() as url:

        def started(state: Path, *, rekey: bool = False) -> str:
            try:
                prepare(Serving(url, state, rekey=rekey), "http://127.0.0.1:9620")
            except TapPassConfigError as error:
                return str(error).partition(" not what")[0]
            return "serves"

        assert [started(one), started(one)] == ["serves", "serves"]
        assert started(two) == f"log.key and equality.key in {two} are"
        shutil.copy(one / "log.key", two)
        assert started(two) == f"equality.key in {two} is"
        shutil.copy(one / "equality.key", two)
        assert started(two) == "serves"
        (two / "equality.key").unlink()
        assert [started(two), started(two, rekey=True), started(two)] == [f"equality.key in {two} is", *["serves"] * 2]
        assert started(one) == f"equality.key in {one} is"
        # What stands for a key tells nothing of it.
        with psycopg.connect(url) as owner:
            kept = str(owner.execute("SELECT * FROM setting").fetchall())
        assert (one / "equality.key").read_bytes().hex() not in kept
