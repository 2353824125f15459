"""Approvals by command: what people see, who may vote, and what no vote can do."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tappass import ApprovalRequired, PolicyBlockError, resume, tappass_session, tool
from tappass.cli.place import here
from tappass.engine.approver import VARIABLE
from tappass.session.registry import registry
from tappass.toolspec import release_names
from tests.cli.conftest import Command

POLICY = """\
version: 1
rules:
  - id: big
    tool: pay
    when: args.amount > 1000
    effect: require_approval
    approvers: {approvers}
    expires_in: {expires_in}
    message: two pairs of eyes
"""
LONG = "invoice " * 500


@pytest.fixture
def asking(tappass: Command) -> ApprovalRequired:
    return ask(tappass)


def ask(tappass: Command, to: str = "acme", approvers: int = 1, expires_in: str = "1h") -> ApprovalRequired:
    """Set a project up in which a payment was asked for, by a process that has ended since."""
    Path("policy.yaml").write_text(POLICY.format(approvers=approvers, expires_in=expires_in))
    assert tappass("init").code == 0
    with pytest.raises(ApprovalRequired) as caught, tappass_session(name="payments", agent="bookkeeper"):
        payment()(5000, to)
    leave()
    return caught.value


def payment() -> Callable[..., str]:
    @tool
    def pay(amount: int, to: str, note: str = LONG) -> str:
        with Path("paid.txt").open("a") as file:
            file.write(f"{amount}\n")
        return "paid"

    return pay


def leave() -> None:
    registry.shutdown()
    release_names()


def run_it(error: ApprovalRequired, to: str = "acme") -> str:
    try:
        with resume(error.resume_token):
            return str(payment()(5000, to))
    finally:
        leave()


def id_of(error: ApprovalRequired) -> str:
    return error.approval_url.rpartition("/")[2]


def second_person(name: str = "bob") -> str:
    """Return the approver key of somebody else."""
    key = f"tp_approver_{name}"
    digest = hashlib.sha256(key.encode()).digest()
    with here() as place:
        place.store.run(
            lambda tx: (
                tx.execute(
                    "INSERT INTO person (person_id, org_id, name, roles, created_at)"
                    " VALUES (?, 'org_local', ?, 'approver', '')",
                    (f"per_{name}", name),
                ),
                tx.execute(
                    "INSERT INTO api_key (key_id, org_id, project_id, person_id, digest, scopes, label, created_by,"
                    " created_at) VALUES (?, 'org_local', '', ?, ?, 'approver', '', '', '')",
                    (f"key_{name}", f"per_{name}", digest),
                ),
            )
        )
    return key


def test_list_names_what_waits_with_its_arguments_and_its_votes(asking: ApprovalRequired, tappass: Command) -> None:
    shown = tappass("approvals", "list")
    assert shown.code == 0
    (line,) = shown.out.splitlines()
    assert line.startswith(id_of(asking))
    for part in ("pending", "pay(amount=5000", "by big", "0 of 1 approved", "agent bookkeeper"):
        assert part in line


def test_list_as_json_has_everything(asking: ApprovalRequired, tappass: Command) -> None:
    (held,) = tappass("approvals", "list", "--json").json
    assert held["approval_id"] == id_of(asking)
    assert (held["state"], held["rules"], held["approvers"], held["approved_by"]) == ("pending", ["big"], 1, 0)
    assert held["action"]["arguments"] == {"amount": 5000, "note": LONG, "to": "acme"}
    assert (held["session_id"], held["task_id"]) == (asking.session_id, asking.task_id)


def test_list_by_state_and_all(asking: ApprovalRequired, tappass: Command) -> None:
    assert tappass("approvals", "deny", id_of(asking), "--reason", "no", "--yes").code == 0
    assert tappass("approvals", "list").out == "nothing waits for people\n"
    assert tappass("approvals", "list", "--json").json == []
    for words in (["--all"], ["--state", "denied"]):
        (held,) = tappass("approvals", "list", *words, "--json").json
        assert (held["state"], held["action"]) == ("denied", None)
        assert "denied" in tappass("approvals", "list", *words).out
    for wrong in (["--state", "maybe"], ["--state", "denied", "--all"]):
        refused = tappass("approvals", "list", *wrong)
        assert (refused.code, refused.out) == (2, "")
        assert "pending, approved, denied, expired, redeemed" in refused.err


@pytest.mark.parametrize("by_url", [False, True])
def test_show_prints_exactly_what_will_run(asking: ApprovalRequired, tappass: Command, by_url: bool) -> None:
    shown = tappass("approvals", "show", asking.approval_url if by_url else id_of(asking))
    assert shown.code == 0
    record = tappass("approvals", "show", id_of(asking), "--json").json
    for part in (
        "tool     pay",
        "amount = 5000",
        f'note = "{LONG}"',
        'to = "acme"',
        "rule     big (policy.yaml:3): two pairs of eyes",
        "agent    bookkeeper",
        f"session  {asking.session_id}, task {asking.task_id}",
        "stands until",
        "0 of 1 approved",
        f"action {record['action_digest']}, definition {record['definition_digest']}",
    ):
        assert part in shown.out, part


def test_show_as_json_adds_the_rules_and_the_votes(tappass: Command) -> None:
    error = ask(tappass, approvers=2)
    assert tappass("approvals", "approve", id_of(error), "--reason", "known supplier", "--yes").code == 0
    record = tappass("approvals", "show", id_of(error), "--json").json
    (rule,) = record["asking"]
    assert (rule["id"], rule["source"], rule["message"]) == ("big", "policy.yaml:3", "two pairs of eyes")
    (vote,) = record["votes"]
    assert (vote["vote"], vote["reason"]) == ("approve", "known supplier")
    assert vote["by"].startswith("os:")
    assert (record["state"], len(record["action_digest"]), len(record["definition_digest"])) == ("pending", 64, 64)


def test_an_approved_call_runs_once_in_another_process_of_its_own(asking: ApprovalRequired, tappass: Command) -> None:
    done = tappass("approvals", "approve", id_of(asking), "--reason", "known supplier", "--yes")
    assert done.code == 0
    assert "amount = 5000" in done.out
    assert done.out.splitlines()[-1].startswith(f"{id_of(asking)} is approved: 1 of 1 approved; on record as os:")
    assert run_it(asking) == "paid"
    with pytest.raises(PolicyBlockError, match="was used already"):
        run_it(asking)
    assert Path("paid.txt").read_text() == "5000\n"
    assert tappass("approvals", "list", "--state", "redeemed", "--json").json[0]["redeemed_at"]


def test_a_denied_call_never_runs(asking: ApprovalRequired, tappass: Command) -> None:
    done = tappass("approvals", "deny", asking.approval_url, "--reason", "not ours", "--yes")
    assert done.code == 0
    assert f"{id_of(asking)} is denied" in done.out
    with pytest.raises(PolicyBlockError, match="denied by people"):
        run_it(asking)
    assert not Path("paid.txt").exists()


def test_without_yes_and_without_anybody_to_ask_nothing_is_approved(asking: ApprovalRequired, tappass: Command) -> None:
    done = tappass("approvals", "approve", id_of(asking), "--reason", "ok")
    assert done.code == 2
    assert "nobody to ask" in done.err
    assert tappass("approvals", "show", id_of(asking), "--json").json["votes"] == []


@pytest.mark.parametrize(("answer", "code", "state"), [("n\n", 1, "pending"), ("y\n", 0, "approved")])
def test_approve_asks_after_it_has_shown_what_will_run(
    asking: ApprovalRequired, tappass: Command, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, state: str
) -> None:
    monkeypatch.setattr("tappass.cli.console.someone_to_ask", lambda: True)
    done = tappass("approvals", "approve", id_of(asking), "--reason", "ok", stdin=answer)
    assert done.code == code
    assert done.out.index('to = "acme"') < done.out.index("Let exactly this run, once?")
    assert tappass("approvals", "show", id_of(asking), "--json").json["state"] == state


@pytest.mark.parametrize("command", ["approve", "deny"])
@pytest.mark.parametrize("key", ["tp_approver_forged", "nonsense"])
def test_a_wrong_key_votes_on_nothing(
    asking: ApprovalRequired, tappass: Command, monkeypatch: pytest.MonkeyPatch, command: str, key: str
) -> None:
    monkeypatch.setenv(VARIABLE, key)
    done = tappass("approvals", command, id_of(asking), "--reason", "ok", "--yes")
    assert done.code == 2
    assert done.err.startswith(f"tappass: the key in {VARIABLE} is not a valid approver key")
    assert key not in done.err + done.out
    assert tappass("approvals", "show", id_of(asking), "--json").json["votes"] == []


def test_without_a_key_nobody_votes(asking: ApprovalRequired, tappass: Command) -> None:
    for file in (Path.home() / ".config/tappass/keys").iterdir():
        file.unlink()
    done = tappass("approvals", "approve", id_of(asking), "--reason", "ok", "--yes")
    assert done.code == 2
    assert "needs the approver key" in done.err


def test_the_same_person_counts_once_and_a_second_person_completes_it(
    tappass: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ask(tappass, approvers=2)
    first = tappass("approvals", "approve", id_of(error), "--reason", "one", "--yes")
    assert "is pending: 1 of 2 approved" in first.out
    again = tappass("approvals", "approve", id_of(error), "--reason", "again", "--yes")
    assert again.code == 1
    assert again.err.count("\n") == 1
    assert "each person counts once" in again.err
    with pytest.raises(ApprovalRequired):
        run_it(error)
    monkeypatch.setenv(VARIABLE, second_person())
    assert (
        "is approved: 2 of 2 approved; on record as bob"
        in tappass("approvals", "approve", id_of(error), "--reason", "two", "--yes").out
    )
    assert run_it(error) == "paid"


def test_nobody_approves_their_own_request(asking: ApprovalRequired, tappass: Command) -> None:
    with here() as place:
        place.store.run(lambda tx: tx.execute("UPDATE approval SET requested_by = (SELECT name FROM person LIMIT 1)"))
    done = tappass("approvals", "approve", id_of(asking), "--reason", "mine", "--yes")
    assert done.code == 1
    assert "nobody approves their own request" in done.err


@pytest.mark.parametrize("command", ["show", "approve", "deny"])
def test_an_unknown_id_exits_with_1_and_one_harmless_line(
    asking: ApprovalRequired, tappass: Command, command: str
) -> None:
    words = [] if command == "show" else ["--reason", "ok", "--yes"]
    for unknown in ("apr_\x1b[31m", id_of(asking)[:-1], "", "apr_"):
        done = tappass("approvals", command, unknown, *words)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("tappass: there is no approval `")
        assert done.err.count("\n") == 1
        assert "\x1b" not in done.err


@pytest.mark.parametrize("command", ["show", "approve", "deny"])
def test_a_resume_token_is_no_ballot(asking: ApprovalRequired, tappass: Command, command: str) -> None:
    words = [] if command == "show" else ["--reason", "ok", "--yes"]
    done = tappass("approvals", command, asking.resume_token, *words)
    assert done.code == 2
    assert "a resume token resumes a call" in done.err
    assert asking.resume_token not in done.err
    assert tappass("approvals", "list", "--json").json[0]["state"] == "pending"


@pytest.mark.parametrize("reason", ["", "   ", "\n", "x" * 4001])
def test_a_vote_needs_a_reason(asking: ApprovalRequired, tappass: Command, reason: str) -> None:
    done = tappass("approvals", "approve", id_of(asking), "--reason", reason, "--yes")
    assert (done.code, done.out) == (2, "")
    assert "the reason" in done.err
    assert tappass("approvals", "approve", id_of(asking), "--yes").code == 2
    assert tappass("approvals", "list", "--json").json[0]["approved_by"] == 0


def test_what_was_decided_is_not_voted_on_again(asking: ApprovalRequired, tappass: Command) -> None:
    assert tappass("approvals", "deny", id_of(asking), "--reason", "no", "--yes").code == 0
    for command in ("approve", "deny"):
        done = tappass("approvals", command, id_of(asking), "--reason", "yes", "--yes")
        assert done.code == 1
        assert "is denied already; nothing was changed" in done.err
    assert "no longer kept" in tappass("approvals", "show", id_of(asking)).out


def test_after_its_time_nobody_can_approve_it_and_it_never_runs(tappass: Command) -> None:
    error = ask(tappass)
    with here() as place:
        place.store.run(lambda tx: tx.execute("UPDATE approval SET expires_at = '2026-01-01T00:00:00.000000Z'"))
    done = tappass("approvals", "approve", id_of(error), "--reason", "late", "--yes")
    assert done.code == 1
    assert "is expired already" in done.err
    assert tappass("approvals", "list").out == "nothing waits for people\n"
    assert tappass("approvals", "list", "--state", "expired", "--json").json[0]["action"] is None
    with pytest.raises(PolicyBlockError, match="has expired"):
        run_it(error)


def test_hostile_arguments_are_shown_whole_and_not_interpreted(tappass: Command) -> None:
    evil = 'acme\x1b[2K\x1b]0;owned\x07[bold red]x[/]\u202e\r\n  to = "somebody harmless"' + "z" * 5000 + "END"
    error = ask(tappass, to=evil)
    for words in (["show"], ["show", "--json"], ["approve", "--reason", evil[:60], "--yes"]):
        shown = tappass("approvals", words[0], id_of(error), *words[1:])
        assert shown.code == 0
        assert not set(shown.out) & {"\x1b", "\x07", "\r", "\u202e"}, words
        assert "zEND" in shown.out
    text = tappass("approvals", "show", id_of(error)).out
    assert not [line for line in text.splitlines() if line.strip().startswith('to = "somebody')]
    assert run_it(error, to=evil) == "paid"
    assert not set(tappass("sessions", "show", "--full").out) & {"\x1b", "\x07", "\r", "\u202e"}


def test_the_timeline_says_who_let_it_run_and_why(asking: ApprovalRequired, tappass: Command) -> None:
    before = tappass("sessions", "show").out
    assert "HELD  pay(" in before
    assert f"waits for people until {asking.expires_at[:10]}" in before
    assert "1 call, 1 held" in before
    assert "suspended" in before
    assert tappass("approvals", "approve", id_of(asking), "--reason", "known supplier", "--yes").code == 0
    assert run_it(asking) == "paid"
    held, ran, totals = tappass("sessions", "show").out.splitlines()[1:]
    assert f"nothing ran  {id_of(asking)} approved  os:" in held
    assert "approved: known supplier" in held
    assert "allowed  pay(" in ran
    assert f"resumed by {id_of(asking)}, approved by os:" in ran
    assert totals.startswith("2 calls, 1 held")
    calls = tappass("sessions", "show", "--json").json["calls"]
    assert [call["outcome"] for call in calls] == ["needs_approval", "allow"]
    assert {call["approval"]["state"] for call in calls} == {"redeemed"}


def test_the_timeline_says_who_denied_it(asking: ApprovalRequired, tappass: Command) -> None:
    assert tappass("approvals", "deny", id_of(asking), "--reason", "not ours", "--yes").code == 0
    held = tappass("sessions", "show").out.splitlines()[1]
    assert f"{id_of(asking)} denied" in held
    assert "denied: not ours" in held


def test_a_call_that_waited_has_one_ending(tappass: Command) -> None:
    Path("policy.yaml").write_text(POLICY.format(approvers=1, expires_in="1h"))
    assert tappass("init").code == 0
    voter = (
        "import json, subprocess, sys\n"
        "def tappass(*words): return subprocess.check_output([sys.executable, '-m', 'tappass', *words])\n"
        "while not (held := json.loads(tappass('approvals', 'list', '--json'))): pass\n"
        "tappass('approvals', 'approve', held[0]['approval_id'], '--reason', 'ok', '--yes')\n"
    )
    with (
        subprocess.Popen([sys.executable, "-c", voter]) as running,
        tappass_session(on_approval="wait", approval_timeout_s=60),
    ):
        assert payment()(5000, "acme") == "paid"
    leave()
    assert running.returncode == 0
    held, ran, totals = tappass("sessions", "show").out.splitlines()[1:]
    assert "HELD  pay(" in held
    assert "allowed  pay(" in ran
    assert totals.startswith("2 calls, 1 held")
    assert [call["status"] for call in tappass("sessions", "show", "--json").json["calls"]] == ["", "completed"]
