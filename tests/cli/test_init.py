"""`tappass init`: everything a project needs, nothing overwritten, safe to run again."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.cli.conftest import POLICY, Command, work


def mode(path: str | Path) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def test_it_writes_policy_settings_database_and_key(tappass: Command) -> None:
    done = tappass("init", "--json")
    assert done.code == 0
    made = done.json
    assert [Path(path).name for path in made["made"][:3]] == ["policy.yaml", "tappass.toml", "tappass.db"]
    assert mode(".tappass") == 0o700
    assert mode(".tappass/tappass.db") == 0o600
    assert mode(made["approver_key_file"]) == 0o600
    assert not Path(made["approver_key_file"]).is_relative_to(Path.cwd())
    assert made["accepted_by"] == made["approver"]
    assert made["pending"] is False
    assert tappass("policy", "check").code == 0


def test_what_it_writes_is_commented_and_means_what_no_file_means(tappass: Command) -> None:
    assert tappass("init").code == 0
    shown = tappass("policy", "show", "--json").json["accepted"]
    assert shown["policy"].get("rules", []) == []
    assert Path("policy.yaml").read_text().count("#") > 10
    assert Path("tappass.toml").read_text().count("#") > 10


def test_it_overwrites_nothing_and_may_be_run_again(project: Path, tappass: Command) -> None:
    Path("tappass.toml").write_text("# mine\n")
    first = tappass("init", "--json").json
    assert Path("policy.yaml").read_text() == POLICY
    assert Path("tappass.toml").read_text() == "# mine\n"
    again = tappass("init", "--json").json
    assert again == first | {"made": []}


def test_a_policy_that_lies_in_the_folder_gets_no_second_one_beside_it(tappass: Command) -> None:
    Path("policies").mkdir()
    Path("policies/mail.yaml").write_text(POLICY)
    assert tappass("init").code == 0
    assert not Path("policy.yaml").exists()


def test_the_key_itself_is_never_printed(project: Path, tappass: Command) -> None:
    done = tappass("init")
    key = next(Path.home().glob(".config/tappass/keys/*"))
    assert str(key) in done.out
    for text in (done.out, done.err, tappass("init").out, tappass("doctor").out, tappass("audit", "tail").out):
        assert key.read_text().strip() not in text
        assert "tp_approver_" not in text


def test_the_person_and_the_key_are_on_record(tappass: Command) -> None:
    assert tappass("init").code == 0
    log = tappass("audit", "tail").out
    assert "policy.accepted" in log
    assert "key.created" in log
    assert "os:" in log


def test_a_database_that_calls_have_made_is_taken_over(tappass: Command) -> None:
    """As in the quickstart: first a governed call, then `tappass init`."""
    Path(".tappass").mkdir(mode=0o755)
    work_without_policy()
    assert tappass("init").code == 0
    assert mode(".tappass") == 0o700
    shown = tappass("policy", "show", "--json").json
    assert shown["accepted"]["accepted_by"].startswith("os:")
    assert shown["pending"] is None


def work_without_policy() -> None:
    from tappass import tappass_session
    from tappass.session.registry import registry

    with tappass_session(name="first"):
        pass
    registry.shutdown()


def test_a_removed_policy_is_not_replaced_behind_the_approver_s_back(recorded: str, tappass: Command) -> None:
    Path("policy.yaml").unlink()
    done = tappass("init", "--json").json
    assert done["made"][0].endswith("policy.yaml")
    assert done["pending"] is True
    assert "policy accept" in tappass("init").out
    work("still under the old policy")


def test_a_changed_policy_waits_also_for_init(recorded: str, tappass: Command) -> None:
    before = tappass("policy", "show", "--json").json["accepted"]
    Path("policy.yaml").write_text("version: 1\n")
    assert tappass("init", "--json").json["pending"] is True
    assert tappass("policy", "show", "--json").json["accepted"] == before


def test_a_wrong_policy_is_named_and_no_key_is_made(tappass: Command) -> None:
    Path("policy.yaml").write_text("version: 7\n")
    done = tappass("init")
    assert done.code == 2
    assert "policy.yaml:1:10" in done.err
    assert not list(Path.home().glob(".config/tappass/keys/*"))
    Path("policy.yaml").write_text("version: 1\n")
    assert tappass("init").code == 0


def test_a_new_approver_key_replaces_the_old_one(recorded: str, tappass: Command) -> None:
    (file,) = Path.home().glob(".config/tappass/keys/*")
    old = file.read_text()
    assert tappass("init", "--new-approver-key").code == 0
    assert file.read_text() != old
    assert "key.revoked" in tappass("audit", "tail").out
    file.write_text(old)
    Path("policy.yaml").write_text("version: 1\n")
    assert tappass("policy", "accept", "--yes").code == 2


@pytest.mark.parametrize("before", [None, "*.pyc", "*.pyc\n"])
def test_git_is_told_to_leave_the_database_out(tappass: Command, before: str | None) -> None:
    Path(".git").mkdir()
    if before is not None:
        Path(".gitignore").write_text(before)
    assert tappass("init").code == 0
    lines = Path(".gitignore").read_text().splitlines()
    assert lines == [*(before or "").split(), ".tappass/"]
    assert tappass("init").code == 0
    assert Path(".gitignore").read_text().splitlines() == lines


def test_without_git_there_is_nothing_to_ignore(tappass: Command) -> None:
    assert tappass("init").code == 0
    assert not Path(".gitignore").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_one_line(tappass: Command) -> None:
    Path.cwd().chmod(0o500)
    done = tappass("init")
    Path.cwd().chmod(0o700)
    assert done.code == 2
    assert done.err.count("\n") == 1


def test_a_file_where_the_directory_should_be_is_one_line(tappass: Command) -> None:
    Path(".tappass").write_text("")
    done = tappass("init")
    assert done.code == 2
    assert done.err.count("\n") == 1


def test_a_change_that_waits_is_not_accepted_by_setting_up(tappass: Command) -> None:
    """A tool may have written it between the first call and `tappass init`."""
    work_without_policy()
    Path("policy.yaml").write_text("version: 1\ndefault: block\n")
    done = tappass("init")
    assert done.code == 0
    assert "run `tappass policy accept`" in done.out
    assert tappass("policy", "show", "--json").json["accepted"]["policy"].get("default", "allow") == "allow"
    assert tappass("policy", "accept", "--yes").code == 0
    assert tappass("policy", "show", "--json").json["accepted"]["policy"]["default"] == "block"
