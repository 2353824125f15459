"""`tappass keys` and `tappass orgs`: made by whoever shows a key, shown once, ended within a second everywhere."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Command
from tests.serving import serve

ADMIN = "TAPPASS_ADMIN_KEY"


@pytest.fixture
def started(project: Path, tappass: Command) -> Command:
    assert tappass("init").code == 0
    return tappass


def test_a_key_is_shown_once_and_listed_without_itself(started: Command) -> None:
    made = started("keys", "create", "--scope", "auditor", "--for", "ernst", "--expires-in", "90d", "--json").json
    listed = started("keys", "list", "--json")
    (row,) = [row for row in listed.json if row["key_id"] == made["key_id"]]
    assert made["key"].startswith("tp_auditor_")
    assert made["key"] not in listed.out + started("keys").out
    assert (row["scope"], row["name"], row["created_by"][:3]) == ("auditor", "ernst", "os:")
    assert row["expires_at"]


def test_nobody_makes_a_key_without_showing_one(started: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADMIN, "tp_admin_wrong")
    done = started("keys", "create", "--scope", "admin")
    assert done.code == 2
    assert ADMIN in done.err
    assert "tp_admin_wrong" not in done.err
    monkeypatch.setenv(ADMIN, "")
    auditor = started("keys", "create", "--scope", "auditor", "--json").json["key"]
    monkeypatch.setenv(ADMIN, auditor)
    assert started("keys", "create", "--scope", "admin").code == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--scope", "owner"), "no scope"),
        (("--scope", "agent", "--for", "nobody"), "no agent"),
        (("--scope", "approver"), "whose approver key"),
        (("--scope", "auditor", "--expires-in", "soon"), "no duration"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(started: Command, words: tuple[str, ...], told: str) -> None:
    done = started("keys", "create", *words)
    assert done.code == 2
    assert told in done.err
    assert done.err.count("\n") == 1


def test_an_organisation_has_an_admin_of_its_own(started: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    made = started("orgs", "add", "Acme", "--json").json
    assert [row["name"] for row in started("orgs", "--json").json] == ["local", "Acme"]
    assert started("orgs", "add", "Acme").code == 2
    assert len(started("keys", "--org", "Acme", "--json").json) == 1
    monkeypatch.setenv(ADMIN, made["key"])
    assert started("keys", "create", "--scope", "auditor", "--org", "Acme").code == 0
    assert started("keys", "create", "--scope", "auditor").code == 2, "another organisation's admin"
    assert started("orgs", "add", "Other").code == 2, "an organisation's admin makes no other"


def test_a_key_made_rotated_and_revoked_counts_at_every_worker_within_a_second(
    started: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(Path.cwd(), workers=2) as served:
        monkeypatch.setenv(ADMIN, served.admin_key)
        first = started("keys", "create", "--scope", "admin", "--json").json

        def answers(key: str) -> set[int]:
            asked = (httpx.get(f"{served.url}/agents/x", headers={"Authorization": f"Bearer {key}"}) for _ in range(20))
            return {answer.status_code for answer in asked}

        assert answers(first["key"]) == {404}
        second = started("keys", "rotate", first["key_id"], "--overlap", "1h", "--json").json
        assert answers(first["key"]) == answers(second["key"]) == {404}
        assert started("keys", "revoke", first["key_id"]).code == 0
        time.sleep(1)
        assert answers(first["key"]) <= {401, 429}
        assert answers(second["key"]) == {404}
        assert started("keys", "revoke", first["key_id"]).code == 2
