"""An approval is in the database: it survives processes, and is redeemed at most once among them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tappass.engine.approver import Approver
from tappass.plane.connect import connect
from tappass.session.registry import registry
from tests.recovery.verifying import verify_plane

SCRIPT = Path(__file__).with_name("approving.py")
POLICY = "version: 1\nrules:\n  - {id: big, tool: pay, when: args.amount > 1000, effect: require_approval}\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "policy.yaml").write_text(POLICY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str) -> str:
    done = subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.stdout.strip()


def approve() -> None:
    """Decide in a process of its own life: the plane is opened, used and let go."""
    plane = connect()
    plane.engine.store.run(
        lambda tx: tx.execute(
            "INSERT INTO person (person_id, org_id, name, roles, created_at) VALUES ('per_1', 'org_local', 'ann',"
            " 'approver', '') ON CONFLICT DO NOTHING"
        )
    )
    (held,) = plane.engine.voting.list()
    plane.engine.voting.approve(held.approval_id, Approver(person_id="per_1", name="ann", key_id="key_1"), "ok")
    registry.shutdown()


def asked() -> str:
    word, token = run("ask").split()
    assert word == "asked"
    return token


def paid(project: Path) -> list[str]:
    file = project / "paid.txt"
    return file.read_text().split() if file.exists() else []


def test_an_approval_survives_the_end_of_the_process_that_asked(project):
    token = asked()
    assert paid(project) == []
    approve()
    assert run("go", token) == "paid"
    assert run("go", token) == "blocked approval-used"
    assert paid(project) == ["5000"]
    assert verify_plane(connect(), project).open == {}


def two_that_resumed(token: str) -> list[subprocess.Popen[str]]:
    both = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), "together", token], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    return both


def test_one_that_resumed_too_learns_that_the_approval_was_used_though_the_other_has_closed_the_session(project):
    token = asked()
    approve()
    said = [process.communicate("go\n")[0].strip() for process in two_that_resumed(token)]
    assert said == ["paid", "blocked approval-used"]
    assert paid(project) == ["5000"]
    verify_plane(connect(), project)


def test_of_two_processes_redeeming_at_once_one_runs(project):
    token = asked()
    approve()
    both = two_that_resumed(token)
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = sorted(process.communicate()[0].split()[0] for process in both)
    assert paid(project) == ["5000"]
    assert said in (["asked", "paid"], ["blocked", "paid"])


def test_a_kill_between_redemption_and_run_shows_and_the_next_attempt_asks_again(project):
    token = asked()
    approve()
    assert run("die", token) == ""
    assert paid(project) == []
    plane = connect()
    events = list(plane.engine.store.read.all_events())
    (redeemed,) = [e for e in events if e.type == "approval.redeemed"]
    assert [call.task_id for call in plane.engine.store.read.open_calls()] == [redeemed.task_id]
    report = verify_plane(plane, project)
    assert [call.task_id for calls in report.open.values() for call in calls] == [redeemed.task_id]
    registry.shutdown()
    word, again = run("go", token).split()
    assert word == "asked"
    assert again != token
    approve()
    assert run("go", again) == "paid"
    assert paid(project) == ["5000"]
