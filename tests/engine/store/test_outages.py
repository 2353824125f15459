"""A database that cannot be written: nothing ran, nothing acknowledged is lost, and it recovers by itself."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap

import pytest

from tappass.engine.store.sqlite import SqliteStore
from tappass.errors import TapPassConnectionError
from tests.engine.store.events import decide, ending, task

DISK_FULL = """
    import resource, signal, sys
    from tappass.engine.store.sqlite import SqliteStore
    from tappass.errors import TapPassConnectionError
    from tests.engine.store.events import decide, ending
    import os

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = SqliteStore(sys.argv[1])
    decide(store, "before", bytes(100_000))
    store.later(ending("before"))
    limit = os.path.getsize(sys.argv[1] + "-wal") + 10_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    refused = 0
    for number in range(5):
        try:
            decide(store, f"refused {number}", bytes(50_000))
        except TapPassConnectionError as error:
            assert "nothing ran" in str(error), error
            refused += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    decide(store, "after")
    store.close()
    print(refused, store.path)
"""


def run_python(source, *args):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), *map(str, args)], capture_output=True, text=True, timeout=120
    )


def tasks(path):
    with SqliteStore(path) as store:
        return [(each.type, each.task_id) for each in store.read.events(limit=1000)]


def test_a_full_disk_refuses_calls_loses_nothing_and_recovers_when_there_is_space_again(path):
    done = run_python(DISK_FULL, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[0] == "5"
    assert tasks(path) == [("call.decided", "before"), ("call.ended", "before"), ("call.decided", "after")]


def test_a_database_at_its_page_limit_says_so_and_keeps_what_waits(path):
    with SqliteStore(path) as store:
        decide(store, "before")
        store.later(ending("before"))
        connection = store._link.ready()
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(TapPassConnectionError, match=r"disk is full.*nothing ran|nothing ran.*disk is full"):
            decide(store, "refused", bytes(100_000))
        connection.execute("PRAGMA max_page_count = 1000000")
        decide(store, "after")
    assert tasks(path) == [("call.decided", "before"), ("call.ended", "before"), ("call.decided", "after")]


def test_a_removed_database_refuses_rather_than_starting_a_new_log(path, tmp_path):
    with SqliteStore(path) as store:
        decide(store, "before")
        kept = tmp_path / "elsewhere"
        os.rename(path, kept)
        with pytest.raises(TapPassConnectionError, match="removed or replaced"):
            decide(store, "refused")
        assert not path.exists()
        os.rename(kept, path)
        decide(store, "after")
    assert [name for _, name in tasks(path)] == ["before", "after"]


def test_a_replaced_database_refuses(path, tmp_path):
    with SqliteStore(tmp_path / "other.db") as other:
        decide(other, "other")
    with SqliteStore(path) as store:
        decide(store, "before")
        os.replace(tmp_path / "other.db", path)
        with pytest.raises(TapPassConnectionError, match="removed or replaced"):
            decide(store, "refused")


def test_a_backup_restored_in_place_refuses(path, tmp_path):
    with SqliteStore(path) as store:
        decide(store, "in the backup")
    shutil.copy(path, tmp_path / "backup.db")
    with SqliteStore(path) as store:
        decide(store, "after the backup")
        store._link.drop()
        shutil.copyfile(tmp_path / "backup.db", path)
        with pytest.raises(TapPassConnectionError, match="restoring a backup"):
            decide(store, "refused")


def test_a_lock_held_too_long_refuses_and_the_next_call_goes_through(path):
    with SqliteStore(path, busy_timeout_s=0.05) as store:
        name = task()
        decide(store, name)
        store.later(ending(name))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TapPassConnectionError, match="another process holds it"):
            decide(store, "refused")
        other.execute("ROLLBACK")
        other.close()
        decide(store, "after")
    assert [t for t, _ in tasks(path)] == ["call.decided", "call.ended", "call.decided"]


def test_an_unwritable_directory_is_said_at_the_start(tmp_path):
    with pytest.raises(TapPassConnectionError, match="nothing ran"):
        SqliteStore(tmp_path / "missing" / "tappass.db")


def test_a_file_that_is_no_database_is_said_at_the_start(path):
    path.write_text("this is not a database, though it is long enough to be one" * 100)
    with pytest.raises(TapPassConnectionError, match="file is not a database"):
        SqliteStore(path)


def test_a_full_disk_swallowed_inside_a_transaction_still_writes_nothing_of_it(path):
    with SqliteStore(path) as store:
        decide(store, "before")
        connection = store._link.ready()
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 1}")

        def swallow(tx):
            with pytest.raises(sqlite3.Error):
                tx.execute("INSERT INTO setting (org_id, key, value) VALUES ('o', 'k', ?)", ("x" * 100_000,))
            tx.execute("INSERT INTO setting (org_id, key) VALUES ('o', 'after')")

        with pytest.raises(TapPassConnectionError):
            store.run(swallow)
        assert store.read.query("SELECT key FROM setting") == []


class FailingCommit:
    """A connection whose COMMIT reports an error, after or instead of having been carried out."""

    def __init__(self, connection, *, written):
        self._connection, self._written = connection, written

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, sql, params=()):
        if sql == "COMMIT":
            self._connection.execute("COMMIT" if self._written else "ROLLBACK")
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self._connection.execute(sql, params)


@pytest.mark.parametrize("written", [True, False])
def test_a_commit_of_which_nobody_knows_whether_it_was_written_writes_nothing_twice(path, written):
    with SqliteStore(path) as store:
        decide(store, "first")
        store.later(ending("first"))
        real = store._link.ready()
        store._link._connection = FailingCommit(real, written=written)
        with pytest.raises(TapPassConnectionError):
            decide(store, "second")
        store._link._connection = real
        store.flush()
    kinds = tasks(path)
    assert kinds.count(("call.ended", "first")) == 1
    assert (("call.decided", "second") in kinds) is written
