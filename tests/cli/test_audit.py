"""Verify, export, tail and key, on the log of a project and on copies that somebody changed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tappass.session.registry import registry
from tests.cli.conftest import Command, work


def exported(tappass: Command, *options: str) -> Path:
    done = tappass("audit", "export", "--out", "log.jsonl", *options)
    assert done.code == 0, done
    return Path("log.jsonl")


def key(tappass: Command) -> str:
    return str(tappass("audit", "key").out.strip())


def test_the_log_here_verifies(recorded: str, tappass: Command) -> None:
    said = tappass("audit", "verify")
    assert said.code == 0
    assert said.out.startswith("verified: ")
    assert "tail not provable" in said.out


def test_verification_as_json_says_what_is_proven(recorded: str, tappass: Command) -> None:
    said = tappass("audit", "verify", "--json").json
    assert said["ok"] is True
    assert said["tail_provable"] is False
    assert said["problems"] == []
    assert said["events"] == said["signed_to"] > 5


def test_an_export_verifies_elsewhere_with_the_key_alone(
    recorded: str, tappass: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, public = exported(tappass).absolute(), key(tappass)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    registry.shutdown()  # as in another process
    assert tappass("audit", "verify", export, "--key", public).code == 0
    Path("public.key").write_text(public + "\n")
    assert tappass("audit", "verify", export, "--key", "public.key").code == 0
    asked = tappass("audit", "verify", export)
    assert asked.code == 2
    assert "--key" in asked.err


def test_an_export_of_the_log_here_needs_no_key(recorded: str, tappass: Command) -> None:
    assert tappass("audit", "verify", exported(tappass)).code == 0


def test_a_changed_event_is_named_and_exits_with_1(recorded: str, tappass: Command) -> None:
    export = exported(tappass)
    lines = export.read_bytes().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if b'"outcome":"block"' in line)
    seq = json.loads(lines[at])["seq"]
    lines[at] = lines[at].replace(b'"outcome":"block"', b'"outcome":"allow"')
    Path("forged.jsonl").write_bytes(b"".join(lines))
    said = tappass("audit", "verify", "forged.jsonl")
    assert said.code == 1
    assert f"NOT VERIFIED: event {seq}" in said.out
    assert tappass("audit", "verify", "forged.jsonl", "--json").json["ok"] is False


def test_a_cut_tail_shows_only_with_a_checkpoint_from_elsewhere(recorded: str, tappass: Command) -> None:
    shutil.copy(exported(tappass), "before.jsonl")
    work("later")
    exported(tappass, "--force")
    last = [line for line in Path("log.jsonl").read_text().splitlines() if line.startswith('{"_checkpoint"')][-1]
    Path("witness").write_text(json.loads(last)["_checkpoint"])
    assert tappass("audit", "verify", "before.jsonl").code == 0
    cut = tappass("audit", "verify", "before.jsonl", "--checkpoint", "witness")
    assert cut.code == 1
    assert "cut off" in cut.out
    whole = tappass("audit", "verify", "log.jsonl", "--checkpoint", "witness", "--json")
    assert whole.json["tail_provable"] is True


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing.jsonl", "--key", "x"], "that is not a public key"),
        (["log.jsonl", "--checkpoint", "nothing"], "cannot use the checkpoint"),
        (["nothing.jsonl"], "--key"),
    ],
)
def test_what_cannot_be_verified_is_a_usage_error(recorded: str, tappass: Command, words: list[str], said: str) -> None:
    exported(tappass)
    done = tappass("audit", "verify", *words)
    assert done.code == 2
    assert said in done.err


def test_an_export_holds_no_content_unless_asked(recorded: str, tappass: Command) -> None:
    assert "_content" not in exported(tappass).read_text()
    assert "_content" in exported(tappass, "--force", "--content").read_text()
    assert tappass("audit", "verify", "log.jsonl").code == 0


def test_an_export_goes_into_a_directory_under_the_log_s_name(recorded: str, tappass: Command) -> None:
    Path("out").mkdir()
    said = tappass("audit", "export", "--out", "out", "--json").json
    (file,) = Path("out").iterdir()
    assert said["file"] == str(file.absolute())
    assert said["header"]["log_id"] in file.name


def test_an_export_to_stdout_is_the_export_itself(recorded: str, program: Command) -> None:
    done = program("audit", "export", "--out", "-")
    assert done.code == 0
    Path("piped.jsonl").write_text(done.out)
    assert program("audit", "verify", "piped.jsonl").code == 0


def test_an_export_never_overwrites_unasked(recorded: str, tappass: Command) -> None:
    Path("log.jsonl").write_text("precious")
    done = tappass("audit", "export", "--out", "log.jsonl")
    assert done.code == 2
    assert "--force" in done.err
    assert Path("log.jsonl").read_text() == "precious"


def test_an_export_that_cannot_be_written_leaves_nothing_behind(recorded: str, tappass: Command) -> None:
    done = tappass("audit", "export", "--out", "no/such/place.jsonl")
    assert done.code == 2
    assert done.err.count("\n") == 1


def test_tail_shows_the_latest_events_in_order(recorded: str, tappass: Command) -> None:
    lines = tappass("audit", "tail", "-n", 3, "--json").out.splitlines()
    events = [json.loads(line) for line in lines]
    assert len(events) == 3
    assert [e["seq"] for e in events] == list(range(events[0]["seq"], events[0]["seq"] + 3))
    assert events[-1]["type"] == "session.closed"
    assert len(tappass("audit", "tail").out.splitlines()) == 10
    assert tappass("audit", "tail", "-n", 0).out == ""


def test_tail_follows_and_an_interrupt_ends_it_with_130(recorded: str) -> None:
    command = [sys.executable, "-m", "tappass", "audit", "tail", "-n", "1", "-f", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["type"] == "session.closed"
        later = work("later")
        seen = [json.loads(following.stdout.readline()) for _ in range(2)]
        following.send_signal(signal.SIGINT)
        _, err = following.communicate(timeout=30)
    assert "session.opened" in {event["type"] for event in seen}
    assert later in {event["session_id"] for event in seen}
    assert following.returncode == 130
    assert "Traceback" not in err


def test_key_is_the_one_the_export_is_signed_with(recorded: str, tappass: Command) -> None:
    header = json.loads(exported(tappass).read_text().splitlines()[0])
    assert header["_export"]["key"] == key(tappass) == tappass("audit", "key", "--json").json["key"]
