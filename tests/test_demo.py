"""The main job from beginning to end, with the real local model, and its log held against the story it tells."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tappass.engine import local_install

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.alone]

ROOT = Path(__file__).resolve().parents[1]
OUTSIDER = "remittance@corvus-payments.example"
PERSONAL = ("dana.okafor", "536-22-8714", "4111 1111", "maja.lindqvist", "posten.example", "jordan.ellis", OUTSIDER)


class Story:
    """What the demo printed, and what its export says."""

    def __init__(self, directory: Path, printed: str) -> None:
        self.directory, self.printed = directory, printed
        (self.export,) = (directory / "audit").glob("tappass-log_*.jsonl")
        lines = [json.loads(line) for line in self.export.read_text().splitlines()]
        # A leaf leaves out what is empty.
        self.leaves: list[dict[str, Any]] = [defaultdict(str, line) for line in lines if "seq" in line]
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
    opened, *later = (leaf for leaf in story.leaves if leaf["type"] == "session.opened")
    children = [leaf for leaf in later if leaf["parent"]]
    assert len(children) == 5
    assert {child["parent"] for child in children} == {opened["session_id"]}
    _, _, record = story.printed.partition("── The record")
    shown = record.partition("── A payment")[0]
    inside = {opened["session_id"], *(child["session_id"] for child in children)}
    ended = [leaf for leaf in story.leaves if leaf["type"] == "call.ended" and leaf["session_id"] in inside]
    assert shown.count("allowed  ") == len(ended)
    assert shown.count("BLOCKED  ") == 1
    assert "29 calls, 1 refused" in shown
    assert "unsettled" not in shown


def test_the_log_verified_and_the_forged_copy_was_found_out(story: Story) -> None:
    assert f"verified: {len(story.leaves)} events" in story.printed
    blocked = next(leaf for leaf in story.leaves if leaf.get("outcome") == "block")
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


def test_the_payment_that_people_decided_ran_once_in_another_process(story: Story) -> None:
    held, ran, again = [
        call for call in story.decided("pay") if call["approval_id"] or call["blocked_by"].startswith("a")
    ]
    assert (held["outcome"], ran["outcome"], again["outcome"]) == ("needs_approval", "allow", "block")
    assert held["session_id"] == ran["session_id"] == again["session_id"]
    assert held["approval_id"] == ran["approval_id"]
    assert again["blocked_by"] == "approval-used"
    kinds = [leaf["type"] for leaf in story.leaves if leaf["approval_id"] and leaf["type"].startswith("approval.")]
    assert kinds == ["approval.requested", "approval.voted", "approval.granted", "approval.redeemed"]
    (granted,) = (leaf for leaf in story.leaves if leaf["type"] == "approval.granted")
    assert granted["actor"].startswith("os:")
    assert story.ending(ran)["status"] == "completed"
    processes = re.findall(r"^process (\d+) ends$", story.printed, re.MULTILINE)
    assert len(processes) == len(set(processes)) == 5
    payments = (story.directory / "payments.csv").read_text().splitlines()
    assert payments == [
        "brightline-20331.txt,GBP,2103.36",
        "corvus-88213.txt,USD,1510.20",
        "lindqvist-4402.txt,EUR,960.00",
        "meridian-0096.txt,USD,1075.00",
        "helios-7741.txt,EUR,4022.20",
        "emergency-generator,EUR,9000.00",
    ]


def test_the_approver_saw_exactly_what_ran(story: Story) -> None:
    shown = story.printed.partition("── A payment that people decide")[2].partition("A new process")[0]
    for part in ("amount = 4022.2\n", 'currency = "EUR"', 'invoice = "helios-7741.txt"', "rule     large-payments ("):
        assert part in shown
    assert "The demo answered for you" in shown


def test_the_tool_that_changed_did_not_run(story: Story) -> None:
    (caught,) = (call for call in story.decided("pay") if call["blocked_by"] == "tool-integrity")
    pinned = {leaf["definition"] for leaf in story.leaves if leaf["type"] == "pin.approved" and leaf["name"] == "pay"}
    assert caught["outcome"] == "block"
    assert caught["definition"] not in pinned
    assert len(pinned) == 1
    assert "is not the tool that was approved: its definition has changed" in story.printed
    assert (story.directory / "payment_agent.py").read_bytes() == (ROOT / "cookbook/payment_agent.py").read_bytes()


def test_the_drill_took_two_people_and_is_over_and_reviewed(story: Story) -> None:
    steps = [leaf for leaf in story.leaves if leaf["type"].startswith("break_glass.")]
    assert [step["type"].partition(".")[2] for step in steps] == ["requested", "confirmed", "used", "ended", "reviewed"]
    assert steps[0]["actor"] != steps[1]["actor"]
    (call,) = (call for call in story.decided("pay") if call["would_be"])
    assert (call["outcome"], call["would_be"]) == ("allow", "needs_approval")
    assert "key.revoked" in [leaf["type"] for leaf in story.leaves]


def test_it_says_how_long_it_took(story: Story) -> None:
    assert re.search(r"── Done in \d+ s", story.printed)


def test_it_works_in_no_directory_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    done = subprocess.run(
        [sys.executable, "-m", "tappass", "demo", "--yes", "--out", tmp_path],
        capture_output=True, text=True, check=False, env=clean_environment(tmp_path),
    )  # fmt: skip
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["mine"]
