"""What ran, shown: the list, one session as a timeline, and nothing of it interpreted by the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tappass import tappass_session, tool
from tappass.session.registry import registry
from tests.cli.conftest import Command, work


def test_list_names_sessions_with_their_counts(recorded: str, tappass: Command) -> None:
    shown = tappass("sessions")
    assert shown.code == 0
    assert recorded in shown.out
    assert "nightly" in shown.out
    assert "  2 calls  " in shown.out
    assert "  1 call, 1 refused  " in shown.out


def test_list_as_json_is_newest_first_and_limited(recorded: str, tappass: Command) -> None:
    later = work("later")
    names = [line["name"] for line in tappass("sessions", "list", "--json").json]
    assert names == ["inner", "later", "inner", "nightly"]
    assert len(tappass("sessions", "--json", "-n", "1").json) == 1
    assert tappass("sessions", "list", "--json", "-n", 2).json[1]["session_id"] == later


def test_timeline_shows_each_call_with_rule_outcome_and_masked_arguments(recorded: str, tappass: Command) -> None:
    shown = tappass("sessions", "show", recorded)
    assert shown.code == 0
    lines = shown.out.splitlines()
    allowed, inner, blocked, masked = lines[1:5]
    assert allowed.startswith('├── allowed  send_email(to="[EMAIL]", body="hi")')
    assert inner.startswith("├── inner  completed")
    assert blocked.startswith('│   └── BLOCKED  send_email(to="[EMAIL]", body="hi")  by mail-stays-inside  nothing ran')
    assert masked.startswith('└── allowed  crm_lookup(customer="C-1")  by mask-crm')
    assert "result masked: EMAIL" in masked
    assert "3 calls, 1 refused" in lines[-1]


def test_timeline_as_json_nests_children(recorded: str, tappass: Command) -> None:
    record = tappass("sessions", "show", recorded, "--json").json
    assert record["session"]["status"] == "completed"
    assert [call["name"] for call in record["calls"]] == ["send_email", "crm_lookup"]
    assert record["calls"][1]["rules"] == ["mask-crm"]
    assert record["calls"][1]["result_findings"] == ["EMAIL:1"]
    assert record["calls"][1]["masked"] == ["EMAIL"]
    (child,) = record["children"]
    (refused,) = child["calls"]
    assert (refused["outcome"], refused["blocked_by"], refused["status"]) == ("block", "mail-stays-inside", "")


@pytest.mark.parametrize("form", ["{}", "http://127.0.0.1:9620/sessions/{}", "http://127.0.0.1:9620/sessions/{}/?x=1"])
def test_a_session_is_found_by_id_and_by_audit_url(recorded: str, tappass: Command, form: str) -> None:
    assert tappass("sessions", "show", form.format(recorded), "--json").json["session"]["session_id"] == recorded


def test_without_an_id_the_latest_session_is_shown_and_no_child_of_it(recorded: str, tappass: Command) -> None:
    assert tappass("sessions", "show", "--json").json["session"]["session_id"] == recorded


def test_a_beginning_that_two_sessions_share_finds_neither(recorded: str, tappass: Command) -> None:
    assert tappass("sessions", "show", "ses_").code == 1
    assert tappass("sessions", "show", recorded[:-1], "--json").json["session"]["session_id"] == recorded


def test_an_unknown_session_exits_with_1_and_one_line(recorded: str, tappass: Command) -> None:
    shown = tappass("sessions", "show", "ses_\x1b[31m")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.startswith(r"tappass: no session ses_\x1b[31m in ")
    assert shown.err.count("\n") == 1


def test_a_call_without_an_ending_is_shown_as_unsettled(recorded: str, tappass: Command) -> None:
    @tool
    def endless() -> None:
        raise AssertionError("never called")

    with tappass_session(name="lost") as session:
        from tappass.wire.decisions import Action, DecisionRequest

        action = Action(kind="tool", name="endless", arguments={})
        request = DecisionRequest(
            action=action, session_id=session.session_id, task_id="tsk_lost", capabilities=("scan_result",)
        )
        assert session.plane.sync.decide(request).outcome == "allow"
    registry.shutdown()
    shown = tappass("sessions", "show", session.session_id)
    assert "UNSETTLED  endless()" in shown.out
    assert "no ending on record" in shown.out
    assert "1 call, 1 unsettled" in shown.out


def test_hostile_names_arguments_and_metadata_are_shown_and_not_interpreted(project: Path, tappass: Command) -> None:
    assert tappass("init").code == 0
    evil = "\x1b]0;owned\x07[bold red]x[/]\u202e\r\n"

    @tool(name=f"read{evil}")
    def read(text: str) -> str:
        return text

    with tappass_session(name=f"name{evil}", agent=f"agent{evil}", metadata={f"key{evil}": evil}) as session:
        read(evil)
    registry.shutdown()
    for words in (["sessions"], ["sessions", "show", "--full"], ["audit", "tail"], ["audit", "tail", "--json"],
                  ["sessions", "show", "--json"], ["sessions", "list", "--json"]):  # fmt: skip
        shown = tappass(*words)
        assert shown.code == 0
        assert not set(shown.out) & {"\x1b", "\x07", "\r", "\u202e"}, words
        assert "[bold red]x[/]" in shown.out or session.session_id in shown.out
    assert "[bold red]x[/]" in tappass("sessions", "show", "--full").out


def test_an_empty_database_has_no_sessions(project: Path, tappass: Command) -> None:
    assert tappass("init").code == 0
    assert tappass("sessions", "--json").json == []
    assert "no sessions" in tappass("sessions").out
    assert tappass("sessions", "show").code == 1


def test_without_a_database_the_error_says_how_to_make_one(tappass: Command) -> None:
    for words in (["sessions"], ["sessions", "show"], ["audit", "verify"], ["audit", "tail"], ["audit", "key"]):
        shown = tappass(*words)
        assert shown.code == 2
        assert "`tappass init`" in shown.err
        assert not Path(".tappass").exists()
