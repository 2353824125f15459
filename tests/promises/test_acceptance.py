"""An agent that can write files may try to edit its rules: nothing it writes rules before a person accepted it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tappass import PolicyBlockError, TapPassConfigError, tappass_session, tool
from tappass.plane.connect import connect
from tappass.session.registry import registry
from tests.conftest import ROOT
from tests.forks import start

STRICT = "version: 1\nrules:\n  - {id: never, tool: never_run, effect: block}\n"
LAX = "version: 1\nallow_observe: true\nrules: []\n"


@tool(name="never_run")
def never() -> str:
    return "ran"


@tool(name="rewrite")
def rewrite(what) -> None:
    what()


rewrite = tool(name="rewrite", encoders={"what": lambda it: "a change"})(rewrite.__wrapped__)


@pytest.fixture
def plane():
    Path("policy.yaml").write_text(STRICT)
    return connect()


def events(plane, kind):
    plane.engine.store.flush()
    return [e for e in plane.engine.store.read.all_events() if e.type == kind]


def later(path: str) -> None:
    """Make a file look as if it had been written some time ago, so that its state is remembered."""
    for each in Path(path).rglob("*"):
        os.utime(each, (1_600_000_000, 1_600_000_000))


CHANGES = {
    "rewrites the policy": lambda: Path("policy.yaml").write_text(LAX),
    "breaks the policy": lambda: Path("policy.yaml").write_text("version: [\n"),
    "writes bytes that are no text": lambda: Path("policy.yaml").write_bytes(b"\xff\xfe\x00"),
    "deletes the policy": lambda: Path("policy.yaml").unlink(),
    "moves the policy away": lambda: Path("policy.yaml").rename("old.yaml"),
    "puts a directory there": lambda: (Path("policy.yaml").unlink(), Path("policy.yaml").mkdir()),
    "puts a pipe there": lambda: (Path("policy.yaml").unlink(), os.mkfifo("policy.yaml")),
    "points at a device": lambda: (Path("policy.yaml").unlink(), os.symlink("/dev/zero", "policy.yaml")),
    "points at nothing": lambda: (Path("policy.yaml").unlink(), os.symlink("nowhere", "policy.yaml")),
    "points at itself": lambda: (Path("policy.yaml").unlink(), os.symlink("policy.yaml", "policy.yaml")),
    "adds a policy": lambda: (Path("policies").mkdir(), Path("policies/x.yaml").write_text(LAX)),
    "adds settings": lambda: Path("tappass.toml").write_text('[policy]\nreload = "auto"\n'),
    "adds settings and rules": lambda: (
        Path("tappass.toml").write_text('[policy]\nreload = "auto"\n'),
        Path("policy.yaml").write_text(LAX),
    ),
    "breaks the settings": lambda: Path("tappass.toml").write_text("= = =\n"),
    "names another plane": lambda: Path("tappass.toml").write_text('url = "sqlite:///elsewhere.db"\n'),
    "goes to another directory": lambda: (Path("sub").mkdir(), os.chdir("sub")),
    "goes to one with rules": lambda: (Path("sub").mkdir(), Path("sub/policy.yaml").write_text(LAX), os.chdir("sub")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_tool_that_changes_policy_or_settings_changes_nothing_until_accepted(change, plane, capfd):
    with tappass_session():
        with pytest.raises(PolicyBlockError, match="rule `never`"):
            never()
        rewrite(CHANGES[change])
        with pytest.raises(PolicyBlockError, match="rule `never`"):
            never()
    with tappass_session() as after, pytest.raises(PolicyBlockError, match="rule `never`"):
        never()
    assert after.plane is plane
    with pytest.raises(PolicyBlockError, match="rule `never`"):
        never()
    with pytest.raises(TapPassConfigError, match="allow_observe"), tappass_session(mode="observe"):
        pass
    assert [e.actor for e in events(plane, "policy.accepted")] == ["first-use"]
    if "directory" in change or "with rules" in change or "nowhere" in change:
        return
    told = [line for line in capfd.readouterr().err.splitlines() if "policy or settings changed on disk" in line]
    assert len(told) == 1, "stderr says so, once"
    assert "the accepted version rules" in told[0]
    assert len(events(plane, "policy.changed")) == 1, "the log says so, once"


def test_what_is_accepted_rules_sessions_opened_afterwards_and_no_open_one(plane, capfd):
    with tappass_session() as before:
        Path("policy.yaml").write_text(LAX)
        old, new = plane.pipelines.accept("os:tester")
        with pytest.raises(PolicyBlockError):
            never()
        assert before.pipeline_uuid == old.uuid
        with tappass_session() as child:
            assert child.pipeline_uuid == new.uuid
            assert never() == "ran"
        with pytest.raises(PolicyBlockError):
            never()
    with tappass_session(mode="observe") as after:
        assert after.pipeline_uuid == new.uuid != old.uuid
        assert never() == "ran"
    accepted = events(plane, "policy.accepted")[-1]
    assert (accepted.actor, accepted.pipeline_uuid, accepted.details["old"]) == ("os:tester", new.uuid, old.uuid)
    assert capfd.readouterr().err == ""


def test_a_bad_policy_is_refused_with_file_line_and_column_and_the_last_accepted_version_still_rules(plane):
    Path("policy.yaml").write_text(
        "version: 1\nrules:\n  - id: bad\n    tool: x\n    when: args.x >\n    effect: block\n"
    )
    with pytest.raises(TapPassConfigError, match=r"policy\.yaml:5:\d+"):
        plane.pipelines.accept("os:tester")
    with tappass_session(), pytest.raises(PolicyBlockError):
        never()
    assert len(events(plane, "policy.accepted")) == 1


def test_a_bad_policy_at_first_use_opens_nothing_and_names_its_place():
    Path("policy.yaml").write_text("version: 1\nrules:\n  - {id: x, tool: y, effect: blok}\n")
    with pytest.raises(TapPassConfigError, match=r"policy\.yaml:3:\d+"):
        never()
    Path("policy.yaml").write_text(STRICT)
    with pytest.raises(PolicyBlockError):
        never()


def test_a_change_taken_back_is_forgotten_and_another_one_is_told_again(plane, capfd):
    with tappass_session():
        pass
    for _ in range(2):
        Path("policy.yaml").write_text(LAX)
        with tappass_session():
            pass
        Path("policy.yaml").write_text(STRICT)
        with tappass_session():
            pass
    assert capfd.readouterr().err.count("changed on disk") == 2
    assert len(events(plane, "policy.changed")) == 2


def test_reload_auto_needs_to_have_been_accepted_itself(plane, capfd):
    Path("tappass.toml").write_text('[policy]\nreload = "auto"\n')
    with tappass_session(), pytest.raises(PolicyBlockError):
        never()
    plane.pipelines.accept("os:tester")
    Path("policy.yaml").write_text(LAX)
    with tappass_session():
        assert never() == "ran"
    Path("policy.yaml").write_text("version: [\n")
    with tappass_session():
        assert never() == "ran", "a bad policy does not rule, reload or not"
    assert "it cannot be accepted" in capfd.readouterr().err
    assert [e.actor for e in events(plane, "policy.accepted")] == ["first-use", "os:tester", "auto"]


def test_what_another_process_accepts_rules_sessions_opened_afterwards(plane):
    with tappass_session() as open_before:
        Path("policy.yaml").write_text(LAX)
        accept = "from tappass.plane.connect import connect; connect().pipelines.accept('os:other')"
        subprocess.run([sys.executable, "-c", accept], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        with pytest.raises(PolicyBlockError):
            never()
        assert open_before.pipeline_uuid
    with tappass_session():
        assert never() == "ran"


def test_a_fork_while_another_thread_reads_the_policy_leaves_the_child_working(plane, monkeypatch):
    reading, go_on = threading.Event(), threading.Event()
    real = plane.pipelines.sources

    def slowly():
        if threading.current_thread() is reader:
            reading.set()
            assert go_on.wait(30)
        return real()

    monkeypatch.setattr(plane.pipelines, "sources", slowly)
    reader = threading.Thread(target=lambda: tappass_session().open())
    reader.start()
    assert reading.wait(30)

    def child():
        with tappass_session(), pytest.raises(PolicyBlockError):
            never()
        registry.shutdown()

    wait = start(child)
    go_on.set()
    reader.join(timeout=60)
    wait()
