"""A backup of a file: consistent while others write, refused when touched, restored whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import closing

import pytest

from tappass.engine.audit.checkpoint import Checkpointer
from tappass.engine.audit.export import export
from tappass.engine.audit.keys import LogKey, log_key
from tappass.engine.audit.verify import verify
from tappass.engine.backup import archive as archives
from tappass.engine.backup.archive import Reading
from tappass.engine.backup.proving import prove
from tappass.engine.backup.restoring import restore
from tappass.engine.backup.sqlite import SqliteSnapshot, SqliteTarget
from tappass.engine.backup.taking import back_up
from tappass.engine.store.sqlite import SqliteStore
from tappass.errors import TapPassConfigError, TapPassConnectionError
from tests.engine.store.events import decide, ending, task


@pytest.fixture
def key(tmp_path):
    return log_key(tmp_path)


@pytest.fixture
def path(tmp_path, key):
    file = tmp_path / "tappass.db"
    with SqliteStore(file) as store:
        Checkpointer(store, key).attach()
        for number in range(300):
            decide(store, name := task(), b'{"amount":%d}' % number)
            store.later(ending(name))
    return file


@pytest.fixture
def taken(tmp_path, path, key):
    file = tmp_path / "backup.tappass"
    with SqliteSnapshot(path) as snapshot:
        back_up(snapshot, file, key)
    return file


def put(taken, target, key, **options):
    with Reading(taken) as archive:
        return restore(archive, SqliteTarget(target), key, by="os:ada", **options)


def verified(path, key, tmp_path):
    with SqliteStore(path) as store:
        with (tmp_path / "log.jsonl").open("wb") as out:
            header = export(store, out, key, content=True)
        report = verify(tmp_path / "log.jsonl", header.key)
        assert report.ok, report.lines()
        return list(store.read.all_events())


def test_what_was_backed_up_comes_back_as_a_new_epoch_of_the_same_log(tmp_path, path, key, taken):
    before = verified(path, key, tmp_path)
    put(taken, tmp_path / "else" / "tappass.db", key)
    after = verified(tmp_path / "else" / "tappass.db", key, tmp_path)
    assert after[:-1] == before
    last = after[-1]
    assert (last.type, last.epoch, last.seq, last.actor) == ("log.restored", 2, 600, "os:ada")
    assert last.details == {"size": "600", "epoch": "1"}
    with SqliteStore(tmp_path / "else" / "tappass.db") as store:
        assert decide(store, task()).epoch == 2
    assert stat.S_IMODE((tmp_path / "else" / "tappass.db").stat().st_mode) == 0o600


def test_a_backup_is_one_moment_though_others_write_on(tmp_path, path, key):
    stop = threading.Event()

    def work():
        with SqliteStore(path) as store:
            while not stop.is_set():
                decide(store, name := task())
                store.later(ending(name))

    writers = [threading.Thread(target=work) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for number in range(5):
            with SqliteSnapshot(path) as snapshot:
                manifest = back_up(snapshot, tmp_path / f"{number}.tappass", key)
            assert manifest.logs[0].size >= 600
            time.sleep(0.05)
    finally:
        stop.set()
        for writer in writers:
            writer.join(30)
    sizes = []
    for number in range(5):
        put(tmp_path / f"{number}.tappass", tmp_path / str(number) / "tappass.db", key)
        sizes.append(len(verified(tmp_path / str(number) / "tappass.db", key, tmp_path)))
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]


def test_a_database_is_only_replaced_when_that_is_said_and_then_kept(tmp_path, path, key, taken):
    with SqliteStore(path) as store:
        decide(store, "tsk_after")
    with pytest.raises(TapPassConfigError, match="--force puts the backup in its place"):
        put(taken, path, key)
    kept = put(taken, path, key, force=True)
    assert verified(path, key, tmp_path)[-1].type == "log.restored"
    assert verified(kept, key, tmp_path)[-1].task_id == "tsk_after"


def test_a_database_in_use_is_not_replaced(tmp_path, path, key, taken):
    with SqliteStore(path) as store:
        decide(store, "tsk_now")
        with pytest.raises(TapPassConnectionError, match="another process uses it"):
            put(taken, path, key, force=True)
        assert decide(store, "tsk_on").task_id == "tsk_on"
    assert not [name for name in os.listdir(tmp_path) if "restoring" in name]


def rewritten(taken, change):
    """Write a backup again, with something changed in its members."""
    with zipfile.ZipFile(taken) as old:
        members = {name: old.read(name) for name in old.namelist()}
    change(members)
    with zipfile.ZipFile(taken, "w") as new:
        for name, body in members.items():
            new.writestr(name, body)


def first_leaf_edited(members):
    members["leaf.rows"] = members["leaf.rows"].replace(b'"name":"pay"', b'"name":"pax"', 1)


def with_another_admin(members):
    members["api_key.rows"] = b"\0\0\0\1\x90"


def manifest_edited(members):
    told = json.loads(members["manifest.json"])
    told["logs"][0]["size"] -= 2
    members["manifest.json"] = json.dumps(told).encode()


def signature_gone(members):
    del members["manifest.sig"]


def cut_off(members):
    members["leaf.rows"] = members["leaf.rows"][:-100]


def a_table_gone(members):
    del members["session.rows"]


@pytest.mark.parametrize(
    "change", [first_leaf_edited, with_another_admin, manifest_edited, signature_gone, cut_off, a_table_gone]
)
def test_what_was_touched_is_refused_and_nothing_put_in_place(tmp_path, key, taken, change):
    rewritten(taken, change)
    with pytest.raises(TapPassConfigError, match=r"is not a sound backup: .*; nothing was restored"):
        put(taken, tmp_path / "else" / "tappass.db", key)
    assert not (tmp_path / "else" / "tappass.db").exists()


@pytest.mark.parametrize("body", [b"", b"PK", b"PK\x05\x06" + b"\0" * 18, b"\0" * 5000])
def test_a_file_that_is_no_backup_is_refused(tmp_path, body):
    (tmp_path / "no.tappass").write_bytes(body)
    with pytest.raises(TapPassConfigError, match="is not a sound backup"):
        Reading(tmp_path / "no.tappass")


def test_a_backup_signed_by_another_key_is_refused(tmp_path, path, taken):
    with pytest.raises(TapPassConfigError, match=r"put the `log\.key` in place"):
        put(taken, tmp_path / "else.db", LogKey(b"\1" * 32))


def test_a_log_that_was_changed_before_the_backup_is_named_by_its_event(tmp_path, path, key):
    with closing(sqlite3.connect(path)) as connection:
        sql = "UPDATE leaf SET bytes = replace(CAST(bytes AS TEXT), 'pay', 'pax') WHERE seq = 7"
        connection.execute(sql.replace("replace(CAST", "CAST(replace(CAST").replace("'pax')", "'pax') AS BLOB)"))
        connection.commit()
    with SqliteSnapshot(path) as snapshot:
        back_up(snapshot, tmp_path / "b.tappass", key)
    with Reading(tmp_path / "b.tappass") as archive, pytest.raises(TapPassConfigError, match="event 7: it was changed"):
        prove(archive)


def test_a_backup_from_a_newer_version_is_refused(tmp_path, path, key, taken, monkeypatch):
    monkeypatch.setattr("tappass.engine.backup.restoring.REVISIONS", ("0000",))
    with pytest.raises(TapPassConfigError, match="made by a newer tappass"):
        put(taken, tmp_path / "else.db", key)


def test_a_backup_holds_no_key_unless_asked_and_is_its_owners_alone(tmp_path, path, key, taken):
    with Reading(taken) as archive:
        assert archive.manifest.keys == ()
    assert stat.S_IMODE(taken.stat().st_mode) == 0o600
    with SqliteSnapshot(path) as snapshot:
        manifest = back_up(snapshot, taken, key, keys=tmp_path, force=True)
    assert manifest.keys == ("log.key",)
    with Reading(taken) as archive:
        assert archive.key_file("log.key") == (tmp_path / "log.key").read_bytes()


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path, path, key, taken, monkeypatch):
    with SqliteSnapshot(path) as snapshot, pytest.raises(TapPassConfigError, match="--force overwrites it"):
        back_up(snapshot, taken, key)
    whole = taken.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives.Writing, "end", fail)
    with SqliteSnapshot(path) as snapshot, pytest.raises(TapPassConfigError, match="No space left"):
        back_up(snapshot, taken, key, force=True)
    assert taken.read_bytes() == whole
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


SLOW = """
import sys, time
from pathlib import Path
from tappass.engine.audit.keys import log_key
from tappass.engine.backup import sqlite
from tappass.engine.backup.archive import Reading
from tappass.engine.backup.restoring import restore

taken, target, moment = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def wait(*_):
    print("there", flush=True)
    time.sleep(60)

if moment == "loading":
    whole = sqlite._filled
    def _filled(draft, schema, tables):
        def slow():
            for name, columns, rows in tables:
                if name == "session":
                    wait()
                yield name, columns, rows
        whole(draft, schema, slow())
    sqlite._filled = _filled
else:
    sqlite._at_rest = wait
with Reading(taken) as archive:
    restore(archive, sqlite.SqliteTarget(target), log_key(target.parent), by="os:ada", force=True)
"""


@pytest.mark.parametrize("moment", ["loading", "swapping"])
def test_killed_in_the_middle_the_old_database_is_in_place(tmp_path, path, key, taken, moment):
    before = verified(path, key, tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, taken, path, moment], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "there\n", process.stderr.read()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    assert verified(path, key, tmp_path) == before
    put(taken, path, key, force=True)
    assert len(verified(path, key, tmp_path)) == len(before) + 1


def test_restoring_goes_on_from_a_restored_one(tmp_path, path, key, taken):
    put(taken, path, key, force=True)
    again = tmp_path / "again.tappass"
    with SqliteSnapshot(path) as snapshot:
        back_up(snapshot, again, key)
    put(again, tmp_path / "else" / "tappass.db", key)
    events = verified(tmp_path / "else" / "tappass.db", key, tmp_path)
    assert [(event.seq, event.epoch) for event in events[-2:]] == [(600, 2), (601, 3)]


def test_an_older_schema_is_brought_up_to_date_when_it_is_restored(tmp_path, path, key, monkeypatch):
    from tappass.engine.store import migrate

    upgraded = []
    monkeypatch.setattr(migrate, "revision_sql", migrate.revision_sql)
    with SqliteSnapshot(path) as snapshot:
        snapshot.schema = "0000"
        back_up(snapshot, tmp_path / "old.tappass", key)
    monkeypatch.setattr("tappass.engine.backup.restoring.REVISIONS", ("0000", "0001"))
    made = migrate.create_file
    monkeypatch.setattr(migrate, "create_file", lambda draft, upto: upgraded.append(upto) or made(draft))
    put(tmp_path / "old.tappass", tmp_path / "new.db", key)
    assert upgraded == ["0000"]
