"""The main job from beginning to end, with the real local model, and its log held against the story it tells."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tappass.engine import local_install

pytestmark = pytest.mark.xdist_group("demo")

OUTSIDER = "remittance@corvus-payments.example"
PERSONAL = ("dana.okafor", "536-22-8714", "4111 1111", "maja.lindqvist", "posten.example", "jordan.ellis", OUTSIDER)


class Story:
    """What the demo printed, and what its export says."""

    def __init__(self, directory: Path, printed: str) -> None:
        self.directory, self.printed = directory, printed
        (self.export,) = (directory / "audit").glob("tappass-log_*.jsonl")
        lines = [json.loads(line) for line in self.export.read_text().splitlines()]
        self.leaves: list[dict[str, Any]] = [line for line in lines if "seq" in line]
        contents = [line["_content"] for line in lines if "_content" in line]
        self.contents = {each["seq"]: json.loads(base64.b64decode(each["body"])) for each in contents}

    def decided(self, name: str) -> list[dict[str, Any]]:
        return [leaf for leaf in self.leaves if leaf["type"] == "call.decided" and leaf["name"] == name]

    def ending(self, call: dict[str, Any]) -> dict[str, Any]:
        (ending,) = (e for e in self.leaves if e["type"] == "call.ended" and e["task_id"] == call["task_id"])
        return ending

    def stored_result(self, call: dict[str, Any]) -> Any:
        return self.contents[self.ending(call)["seq"]]["result"]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    local_install.install(progress=False)
    base = tmp_path_factory.mktemp("demo")
    directory = base / "a project"
    done = subprocess.run(
        [sys.executable, "-m", "tappass", "demo", "--yes", "--out", directory],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=base,
        env=clean_environment(base),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return Story(directory, done.stdout)


def clean_environment(base: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TAPPASS_")}
    # A plane that this shell is set to is none of the demo's business.
    return kept | {"XDG_CONFIG_HOME": str(base / "config"), "TAPPASS_URL": "https://tappass.example"}


def test_every_invoice_is_read_recorded_summarised_and_answered(story: Story) -> None:
    names = ("read_invoice", "record_total", "crm_lookup", "smollm2-135m-instruct", "send_email")
    allowed = {name: [c for c in story.decided(name) if c["outcome"] == "allow"] for name in names}
    assert {name: len(calls) for name, calls in allowed.items()} == dict(zip(names, (6, 5, 6, 6, 4), strict=True))
    assert all(story.ending(call)["status"] == "completed" for calls in allowed.values() for call in calls)
    ledger = (story.directory / "ledger.csv").read_text().splitlines()
    assert ledger == [
        "brightline-20331.txt,GBP,2103.36",
        "corvus-88213.txt,USD,1510.20",
        "helios-7741.txt,EUR,4022.20",
        "lindqvist-4402.txt,EUR,960.00",
        "meridian-0096.txt,USD,1075.00",
    ]


def test_the_model_that_answered_is_the_real_one(story: Story) -> None:
    for call in story.decided("smollm2-135m-instruct"):
        ending = story.ending(call)
        assert ending["model"] == "smollm2-135m-instruct"
        assert min(ending["tokens"]) > 0


def test_the_mail_to_the_outsider_never_left_and_the_error_on_screen_is_the_one_recorded(story: Story) -> None:
    (blocked,) = (call for call in story.decided("send_email") if call["outcome"] == "block")
    assert blocked["blocked_by"] == "mail-stays-inside"
    assert blocked["classification"] == "CONFIDENTIAL"
    assert not [e for e in story.leaves if e["type"] == "call.ended" and e["task_id"] == blocked["task_id"]]
    lines = (story.directory / "policy.yaml").read_text().splitlines()
    place = f"policy.yaml:{1 + lines.index('  - id: mail-stays-inside')}"
    said = f"`send_email` blocked by rule `mail-stays-inside` ({place}); nothing ran; see {blocked['audit_url']}"
    assert said in story.printed
    mails = [json.loads(line) for line in (story.directory / "outbox.jsonl").read_text().splitlines()]
    assert len(mails) == 4
    assert all(mail["to"].endswith("@acme.example") for mail in mails)
    assert OUTSIDER in (story.directory / "data/invoices/corvus-88213.txt").read_text()


def test_the_crm_s_answer_reached_the_agent_without_personal_data(story: Story) -> None:
    last = story.decided("crm_lookup")[-1]
    assert last["rules"] == ["mask-crm"]
    assert story.ending(last)["findings"] == ["EMAIL:1", "PAYMENT_CARD:1", "PHONE:1", "US_SSN:1"]
    assert "email: [EMAIL]" in story.printed
    assert "note: payroll correction pending for SSN [US_SSN]; card on file [PAYMENT_CARD]" in story.printed


def test_an_address_cut_up_by_a_streaming_tool_is_masked(story: Story) -> None:
    (call,) = story.decided("read_aloud")
    assert call["rules"] == ["mask-read-aloud"]
    assert story.ending(call)["findings"] == ["EMAIL:2"]
    assert "written: …Questions about this invoice: maja.lindqvist@posten.example" in story.printed
    assert "heard:   …Questions about this invoice: [EMAIL]" in story.printed


def test_an_address_in_a_streamed_answer_is_masked(story: Story) -> None:
    ending = story.ending(story.decided("smollm2-135m-instruct")[-1])
    assert ending["findings"] == ["EMAIL:1"]
    (chunks,) = re.findall(r"in (\d+) chunks: (.*)", story.printed)
    assert int(chunks[0]) > 3
    assert "[EMAIL]" in chunks[1]


def test_nothing_personal_is_in_the_record_or_in_what_left(story: Story) -> None:
    texts = [story.export.read_text(), json.dumps(story.contents), (story.directory / "outbox.jsonl").read_text()]
    assert len(story.contents) > 50
    for text in texts:
        assert not [part for part in PERSONAL if part in text]


def test_the_timeline_shows_the_session_as_it_was(story: Story) -> None:
    (opened, *children) = (leaf for leaf in story.leaves if leaf["type"] == "session.opened")
    assert len(children) == 5
    assert {child["parent"] for child in children} == {opened["session_id"]}
    _, _, record = story.printed.partition("── The record")
    shown = record.partition("── The proof")[0]
    assert shown.count("allowed  ") == len([leaf for leaf in story.leaves if leaf["type"] == "call.ended"])
    assert shown.count("BLOCKED  ") == 1
    assert "29 calls, 1 refused" in shown
    assert "unsettled" not in shown


def test_the_log_verified_and_the_forged_copy_was_found_out(story: Story) -> None:
    assert f"verified: {len(story.leaves)} events" in story.printed
    (blocked,) = (leaf for leaf in story.leaves if leaf.get("outcome") == "block")
    assert f"NOT VERIFIED: event {blocked['seq']}" in story.printed


def test_the_policy_was_accepted_by_a_person(story: Story) -> None:
    first = story.leaves[0]
    assert first["type"] == "policy.accepted"
    assert first["actor"].startswith("os:")


def test_the_commands_at_the_end_work_as_printed_from_anywhere(story: Story, tmp_path: Path) -> None:
    lines = [line.strip() for line in story.printed.splitlines() if line.startswith("  ") and "tappass" in line]
    commands = [line for line in lines if re.match(r"\S*tappass |\S*python\S* -m tappass ", line)]
    assert len(commands) == 3
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAPPASS_")}
    codes = [
        subprocess.run(shlex.split(command), cwd=tmp_path, env=environment | {"PATH": path}, check=False).returncode
        for command in commands
    ]
    # The last one asks about a mail to an outsider: the answer is no.
    assert codes == [0, 0, 1]


def test_it_took_less_than_two_minutes(story: Story) -> None:
    (seconds,) = re.findall(r"── Done in (\d+) s", story.printed)
    assert int(seconds) < 120


def test_it_works_in_no_directory_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    done = subprocess.run(
        [sys.executable, "-m", "tappass", "demo", "--yes", "--out", tmp_path],
        capture_output=True, text=True, check=False, env=clean_environment(tmp_path),
    )  # fmt: skip
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["mine"]
