"""Rules on the command line: checked, tested, tried, accepted, shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import POLICY, Command, work

CASES = """\
cases:
  - name: inside is fine
    tool: send_email
    args: {to: a@acme.com}
    expect: allow
  - name: outside is blocked
    tool: send_email
    args: {to: a@b.c}
    expect: {outcome: block, blocked_by: mail-stays-inside}
"""
LOOSER = POLICY.replace("effect: block", "effect: allow").replace("mask-crm", "mask-customers")


def write(policy: str) -> None:
    Path("policy.yaml").write_text(policy)


# check


def test_a_sound_policy_passes_without_a_database(project: Path, tappass: Command) -> None:
    shown = tappass("policy", "check")
    assert shown.code == 0
    assert "no problems: 2 rules" in shown.out
    assert not Path(".tappass").exists()


@pytest.mark.parametrize(
    ("wrong", "right", "place", "said"),
    [
        ("effect: forbid", "effect: block", "policy.yaml:7:13", "forbid"),
        ("arg.to", "args.to", "policy.yaml:6:", "arg"),
        ("version: 2", "version: 1", "policy.yaml:1:10", "version: 1"),
    ],
)
def test_a_problem_is_named_with_file_line_and_column(
    project: Path, tappass: Command, wrong: str, right: str, place: str, said: str
) -> None:
    write(POLICY.replace(right, wrong, 1))
    shown = tappass("policy", "check")
    assert shown.code == 1
    assert shown.out.startswith(place)
    assert said in shown.out
    (problem,) = tappass("policy", "check", "--json").json["problems"]
    assert (problem["file"], problem["line"]) == ("policy.yaml", int(place.split(":")[1]))


def test_all_problems_are_named_at_once_and_hostile_text_in_them_is_escaped(project: Path, tappass: Command) -> None:
    write('version: 1\ndefault: "\\e[31m"\nrules: [{id: x, tool: y, effect: z}]\n')
    shown = tappass("policy", "check")
    assert shown.code == 1
    assert len(shown.out.splitlines()) == 2
    assert "\x1b" not in shown.out


def test_files_and_a_directory_can_be_named(project: Path, tappass: Command) -> None:
    Path("other").mkdir()
    Path("other/policy.yaml").write_text("version: 1\n")
    Path("wrong.yaml").write_text("version: 7\n")
    Path("wrong.toml").write_text("[audit]\ncontents = 'none'\n")
    assert tappass("policy", "check", "other").code == 0
    assert tappass("policy", "check", "policy.yaml").code == 0
    assert tappass("policy", "check", "wrong.yaml").out.startswith("wrong.yaml:1:10")
    shown = tappass("policy", "check", "policy.yaml", "wrong.toml")
    assert shown.code == 1
    assert "audit.contents" in shown.out
    assert tappass("policy", "check", "nowhere.yaml").code == 2
    assert tappass("policy", "check", "other", "policy.yaml").code == 2


def test_settings_are_checked_with_the_policy(project: Path, tappass: Command) -> None:
    Path("tappass.toml").write_text("[audit]\nsynchronous = 'sometimes'\n")
    shown = tappass("policy", "check")
    assert shown.code == 1
    assert shown.out.startswith("tappass.toml:2")


def test_policy_settings_and_cases_are_all_checked_at_once(project: Path, tappass: Command) -> None:
    write("version: 7\n")
    Path("tappass.toml").write_text("[nonsense]\n")
    Path("policy.test.yaml").write_text("cases:\n  - tool: x\n    expect: perhaps\n")
    shown = tappass("policy", "check")
    assert shown.code == 1
    files = [line.partition(":")[0] for line in shown.out.splitlines()]
    assert sorted(files) == ["policy.test.yaml", "policy.yaml", "tappass.toml"]
    assert tappass("policy", "check", "policy.test.yaml").out.startswith("policy.test.yaml:3:13")
    Path("policy.test.yaml").write_text(CASES)
    assert tappass("policy", "check", "policy.test.yaml").out == "no problems in 1 files of cases\n"


def test_nothing_to_check_is_a_usage_error(tappass: Command) -> None:
    shown = tappass("policy", "check")
    assert (shown.code, shown.out) == (2, "")
    assert "`tappass init`" in shown.err


def test_a_misspelt_argument_is_found_once_the_tool_has_run(recorded: str, tappass: Command) -> None:
    write(POLICY.replace("args.to", "args.too"))
    shown = tappass("policy", "check")
    assert shown.code == 1
    assert "`send_email` has no argument `too`; did you mean `to`?" in shown.out


# test


def test_cases_beside_the_rules_run_without_a_database(project: Path, tappass: Command) -> None:
    Path("policy.test.yaml").write_text(CASES)
    shown = tappass("policy", "test")
    assert (shown.code, shown.out) == (0, "2 passed, 0 failed\n")
    assert not Path(".tappass").exists()


def test_a_case_that_fails_is_named_and_exits_with_1(project: Path, tappass: Command) -> None:
    Path("policy.test.yaml").write_text(CASES)
    write(LOOSER)
    shown = tappass("policy", "test")
    assert shown.code == 1
    assert "policy.test.yaml:6: outside is blocked" in shown.out
    assert "expected block, got allow" in shown.out
    assert shown.out.endswith("1 passed, 1 failed\n")
    said = tappass("policy", "test", "--json").json
    assert said["ok"] is False
    assert [case["passed"] for case in said["cases"]] == [True, False]


def test_cases_can_be_named_and_are_about_the_policy_beside_them(
    project: Path, tappass: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("policies").mkdir()
    Path("policies/mail.test.yaml").write_text(CASES)
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert tappass("policy", "test", "../policies/mail.test.yaml").out == "2 passed, 0 failed\n"
    assert tappass("policy", "test", "..").out == "2 passed, 0 failed\n"
    assert tappass("policy", "test").code == 2


def test_a_wrong_case_is_a_usage_error_with_its_place(project: Path, tappass: Command) -> None:
    Path("policy.test.yaml").write_text("cases:\n  - tool: x\n    expect: perhaps\n")
    shown = tappass("policy", "test")
    assert shown.code == 2
    assert "policy.test.yaml:3:13" in shown.err


# try


def test_try_answers_for_the_policy_on_disk(project: Path, tappass: Command) -> None:
    blocked = tappass("policy", "try", "send_email", "to=a@b.c")
    assert blocked.code == 1
    assert blocked.out.startswith("block  send_email  by mail-stays-inside (policy.yaml:4)\n")
    assert tappass("policy", "try", "send_email", "to=a@acme.com").code == 0
    assert not Path(".tappass").exists()


def test_try_says_what_would_be_redacted_and_inspected(project: Path, tappass: Command) -> None:
    write("version: 1\ndetect:\n  secrets: {arguments: redact, result: block}\n")
    key = "AKIA" + "QWERTYUIOPASDFGH"
    shown = tappass("policy", "try", "deploy", f"key={key}")
    assert shown.code == 0
    assert "its arguments would be redacted: AWS_ACCESS_KEY" in shown.out
    assert "its result would be inspected: block secrets" in shown.out
    assert key not in shown.out
    said = tappass("policy", "try", "deploy", f"key={key}", "--json")
    assert said.json["redacts"] == ["AWS_ACCESS_KEY"]
    assert key not in said.out


def test_try_takes_json_values_model_calls_and_tiers(project: Path, tappass: Command) -> None:
    write("""\
version: 1
rules:
  - {id: big, tool: pay, when: args.amount > 1000, effect: block}
  - {id: long, llm: 'gpt-*', when: 'args.prompt.contains("secret plan")', effect: block}
  - {id: trust, tool: delete_*, effect: require_tier, tier: trusted}
""")
    assert tappass("policy", "try", "pay", "amount=1000.5").code == 1
    assert tappass("policy", "try", "pay", "amount=999").code == 0
    assert tappass("policy", "try", "--llm", "gpt-4o", "prompt=the secret plan").code == 1
    assert tappass("policy", "try", "--llm", "gpt-4o", "prompt=hello").code == 0
    assert tappass("policy", "try", "delete_all").out.startswith("require_tier")
    assert tappass("policy", "try", "delete_all", "--tier", "privileged").code == 0


@pytest.mark.parametrize("words", [["x", "novalue"], ["x", "a=1", "a=2"], ["x", "=1"]])
def test_try_refuses_arguments_without_a_name(project: Path, tappass: Command, words: list[str]) -> None:
    assert tappass("policy", "try", *words).code == 2


def test_try_refuses_a_policy_that_is_wrong(project: Path, tappass: Command) -> None:
    write("version: 7\n")
    shown = tappass("policy", "try", "x")
    assert shown.code == 2
    assert "policy.yaml:1:10" in shown.err


# accept and show


def test_a_changed_policy_rules_only_after_it_was_accepted(recorded: str, tappass: Command) -> None:
    write(LOOSER)
    assert "until `tappass policy accept`" in tappass("policy", "try", "send_email", "to=a@b.c").out
    before = tappass("policy", "show", "--json").json
    assert before["pending"] == {"digest": before["pending"]["digest"], "problem": ""}
    assert "a change on disk waits" in tappass("policy", "show").out

    shown = tappass("policy", "accept", "--yes")
    assert shown.code == 0
    assert "~ rule mail-stays-inside" in shown.out
    assert '    - effect: "block"' in shown.out
    assert '    + effect: "allow"' in shown.out
    assert "- rule mask-crm" in shown.out
    assert "+ rule mask-customers" in shown.out

    after = tappass("policy", "show", "--json").json
    assert after["pending"] is None
    assert after["accepted"]["accepted_by"].startswith("os:")
    assert after["accepted"]["pipeline_uuid"] != before["accepted"]["pipeline_uuid"]
    last = json.loads(tappass("audit", "tail", "-n", 1, "--json").out)
    assert (last["type"], last["actor"]) == ("policy.accepted", after["accepted"]["accepted_by"])


def test_without_yes_and_without_anybody_to_ask_nothing_is_accepted(recorded: str, tappass: Command) -> None:
    write(LOOSER)
    shown = tappass("policy", "accept")
    assert shown.code == 2
    assert "--yes" in shown.err
    assert tappass("policy", "show", "--json").json["pending"] is not None


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("y\n", 0), ("", 130)])
def test_a_person_is_asked(
    recorded: str, tappass: Command, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    write(LOOSER)
    monkeypatch.setattr("tappass.cli.console.someone_to_ask", lambda: True)
    assert tappass("policy", "accept", stdin=answer).code == code
    assert (tappass("policy", "show", "--json").json["pending"] is None) is (code == 0)


def test_accepting_needs_the_approver_s_key(recorded: str, tappass: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    write(LOOSER)
    (key,) = Path.home().glob(".config/tappass/keys/*")
    text = key.read_text()
    key.unlink()
    assert tappass("policy", "accept", "--yes").code == 2
    monkeypatch.setenv("TAPPASS_APPROVER_KEY", "tp_approver_forged")
    refused = tappass("policy", "accept", "--yes")
    assert refused.code == 2
    assert "forged" not in refused.err
    assert tappass("policy", "show", "--json").json["pending"] is not None
    monkeypatch.setenv("TAPPASS_APPROVER_KEY", text)
    assert tappass("policy", "accept", "--yes").code == 0


def test_what_is_accepted_is_what_was_shown_whatever_is_written_meanwhile(
    recorded: str, tappass: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(LOOSER.replace("default: allow", "default: block"))

    def agreed(question: str, *, yes: bool) -> bool:
        write("version: 1\ndefault: allow\n")
        return True

    monkeypatch.setattr("tappass.cli.policy.agreed", agreed)
    assert tappass("policy", "accept").code == 0
    shown = tappass("policy", "show", "--json").json
    assert shown["accepted"]["policy"]["default"] == "block"
    assert len(shown["accepted"]["policy"]["rules"]) == 2
    assert shown["pending"] is not None


def test_a_wrong_policy_cannot_be_accepted_and_the_old_one_rules_on(recorded: str, tappass: Command) -> None:
    before = tappass("policy", "show", "--json").json["accepted"]
    write("version: 1\nrules: [{id: x, tool: y, effect: z}]\n")
    refused = tappass("policy", "accept", "--yes")
    assert refused.code == 2
    assert "policy.yaml:2:" in refused.err
    shown = tappass("policy", "show", "--json").json
    assert shown["accepted"] == before
    assert "policy.yaml:2:" in shown["pending"]["problem"]
    work("still under the old one")
    assert tappass("doctor").code == 1


def test_nothing_new_is_nothing_to_accept(recorded: str, tappass: Command) -> None:
    shown = tappass("policy", "accept")
    assert shown.code == 0
    assert "nothing to accept" in shown.out
    assert tappass("policy", "accept", "--json").json["changed"] is False


def test_a_changed_comment_is_said_to_be_no_more_than_that(recorded: str, tappass: Command) -> None:
    write(f"# reviewed\n{POLICY}")
    assert "the rules and settings say the same" in tappass("policy", "accept", "--yes").out


def test_a_changed_setting_is_shown(recorded: str, tappass: Command) -> None:
    Path("tappass.toml").write_text("[audit]\ncontent = 'none'\n")
    shown = tappass("policy", "accept", "--yes")
    assert shown.code == 0
    assert "setting audit.content" in shown.out


def test_show_lists_rules_settings_and_default(recorded: str, tappass: Command) -> None:
    shown = tappass("policy", "show")
    assert shown.code == 0
    for part in ("mail-stays-inside", "tool: send_email", "policy.yaml:4", "detect.secrets.result", "default"):
        assert part in shown.out


def test_a_changed_url_is_accepted_where_calls_were_recorded_so_far(
    recorded: str, tappass: Command, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/elsewhere/x.db"
    Path("tappass.toml").write_text(f'url = "{url}"\n' + Path("tappass.toml").read_text())
    assert recorded in tappass("sessions").out, "until then calls are recorded here"

    accepted = tappass("policy", "accept", "--yes")

    assert accepted.code == 0, accepted
    assert "setting url" in accepted.out
    assert "there is no database at" in tappass("sessions").err
    Path("tappass.toml").write_text(Path("tappass.toml").read_text().replace(f'url = "{url}"\n', ""))
    assert "there is no database at" in tappass("sessions").err
    assert tappass("policy", "accept", "--yes").code == 0
    assert recorded in tappass("sessions").out


def test_what_check_rejects_is_not_accepted_and_the_old_policy_rules_on(recorded: str, tappass: Command) -> None:
    before = tappass("policy", "show", "--json").json["accepted"]
    write(POLICY.replace("args.to", "args.recipient"))
    assert tappass("policy", "check").code == 1

    refused = tappass("policy", "accept", "--yes")

    assert refused.code == 2
    assert "policy.yaml:6:17: `send_email` has no argument `recipient`" in refused.err
    shown = tappass("policy", "show", "--json").json
    assert shown["accepted"] == before
    assert "no argument `recipient`" in shown["pending"]["problem"]


def test_one_rule_is_one_rule(tappass: Command) -> None:
    write("version: 1\nrules: [{id: one, tool: a, effect: block}]\n")
    assert "no problems: 1 rule, pipeline" in tappass("policy", "check").out


def test_trying_a_tool_that_nobody_has_seen_says_so(recorded: str, tappass: Command) -> None:
    tried = tappass("policy", "try", "sendemail", "to=eve@evil.example")
    assert tried.code == 0
    assert "no tool called sendemail has been seen here; did you mean `send_email`?" in tried.err
    assert "has been seen" not in tappass("policy", "try", "send_email", "to=a@acme.com").err
    assert "has been seen" not in tappass("policy", "try", "--llm", "gpt", "prompt=hi").err
