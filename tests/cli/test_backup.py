from __future__ import annotations

import os
from pathlib import Path

from tests.cli.conftest import work
from tests.postgres import fresh_database


def test_what_ran_is_there_again_after_a_restore(recorded, tappass):
    assert tappass("backup", "a.tappass").code == 0
    later = work("later")
    assert tappass("sessions", "show", later).code == 0
    done = tappass("restore", "a.tappass", "--force", "--json")
    assert done.json["restored"]
    assert Path(done.json["kept"]).exists()
    assert tappass("sessions", "show", later).code == 1
    assert tappass("sessions", "show", recorded).code == 0
    assert tappass("audit", "verify").code == 0
    assert "log.restored" in tappass("audit", "tail").out
    after = work("after")
    assert tappass("sessions", "show", after).code == 0


def test_a_checkpoint_from_after_the_backup_shows_the_cut(recorded, tappass):
    assert tappass("backup", "a.tappass").code == 0
    work("later")
    assert tappass("audit", "export", "-o", "later.jsonl").code == 0
    note = [line for line in Path("later.jsonl").read_text().splitlines() if line.startswith('{"_checkpoint"')][-1]
    import json

    Path("witness").write_text(json.loads(note)["_checkpoint"])
    assert tappass("audit", "verify", "--checkpoint", "witness").code == 0
    assert tappass("restore", "a.tappass", "--force").code == 0
    verified = tappass("audit", "verify", "--checkpoint", "witness")
    assert verified.code == 1
    assert "NOT VERIFIED" in verified.out


def test_restoring_says_what_it_would_overwrite_and_checks_without_writing(recorded, tappass):
    assert tappass("backup", "a.tappass").code == 0
    before = Path(".tappass/tappass.db").read_bytes()
    assert "--force puts the backup in its place" in tappass("restore", "a.tappass").err
    checked = tappass("restore", "a.tappass", "--check")
    assert checked.code == 0
    assert checked.out.startswith("verified: ")
    assert Path(".tappass/tappass.db").read_bytes() == before


def test_without_the_logs_key_nothing_is_restored(recorded, tappass, tmp_path):
    assert tappass("backup", "a.tappass").code == 0
    refused = tappass("restore", "a.tappass", "--database", f"sqlite:///{tmp_path}/new/tappass.db")
    assert refused.code == 2
    assert "put the key files there first" in refused.err
    assert not (tmp_path / "new").exists()
    assert tappass("backup", "b.tappass", "--with-keys").code == 0
    assert tappass("restore", "b.tappass", "--database", f"sqlite:///{tmp_path}/new/tappass.db").code == 0
    assert (tmp_path / "new" / "log.key").read_bytes() == Path(".tappass/log.key").read_bytes()
    assert {os.stat(tmp_path / "new" / name).st_mode & 0o777 for name in os.listdir(tmp_path / "new")} <= {0o600}


def test_a_database_elsewhere_is_named(recorded, tappass, tmp_path):
    assert tappass("backup", "a.tappass", "--database", f"sqlite:///{tmp_path}/none.db").code == 2
    assert "nothing to back up" in tappass("backup", "a.tappass", "--database", f"sqlite:///{tmp_path}/none.db").err


def test_upgrading_says_that_there_is_nothing_to_do(recorded, tappass):
    done = tappass("upgrade")
    assert (done.code, "nothing to do" in done.out) == (0, True)
    assert tappass("upgrade", "--json").json["before"] == tappass("upgrade", "--json").json["after"]


def test_upgrading_where_there_is_nothing_says_so(tappass):
    assert "there is no database" in tappass("upgrade").err


def test_a_postgresql_database_is_backed_up_restored_and_its_issuer_rotated(recorded, tappass, tmp_path):
    with fresh_database() as url:
        assert tappass("backup", "a.tappass").code == 0
        where = ("--database", url, "--state", tmp_path / "project" / ".tappass")
        assert "empty" in tappass("upgrade", "--database", url).out
        assert tappass("restore", "a.tappass", *where).code == 2
        assert tappass("restore", "a.tappass", *where, "--force").code == 0
        assert tappass("upgrade", "--database", url, "--json").json["before"]
        rotated = tappass("issuer", "rotate", *where, "--json")
        assert rotated.code == 0, rotated
        again = tappass("backup", "b.tappass", *where, "--json")
        assert again.json["manifest"]["storage"] == "postgresql"
        assert tappass("restore", "b.tappass", "--force").code == 0
        assert tappass("sessions", "show", recorded).code == 0
        assert rotated.json["key_id"] in tappass("issuer").out
        assert tappass("audit", "verify").code == 0
        elsewhere = tappass("backup", "c.tappass", "--database", url, "--state", tmp_path)
        assert (elsewhere.code, "there is no log.key" in elsewhere.err) == (2, True)
