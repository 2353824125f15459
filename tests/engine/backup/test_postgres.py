"""A backup of a PostgreSQL database, of one organisation's rows and another's; back again, or to the other database."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from tappass.engine.audit.keys import LogKey, log_key
from tappass.engine.backup import postgres
from tappass.engine.backup.archive import Reading
from tappass.engine.backup.postgres import PostgresSnapshot, PostgresTarget, upgraded
from tappass.engine.backup.proving import prove
from tappass.engine.backup.restoring import restore
from tappass.engine.backup.sqlite import SqliteSnapshot, SqliteTarget
from tappass.engine.backup.taking import back_up
from tappass.engine.store.postgres import PostgresStore
from tappass.engine.store.sqlite import SqliteStore
from tappass.errors import TapPassConfigError, TapPassConnectionError
from tests.engine.store.events import ORG, decide, ending, event, task
from tests.postgres import fresh_database, shared_server

OTHER = "org_other"


@pytest.fixture
def url():
    with fresh_database() as made:
        yield made


@pytest.fixture
def key(tmp_path):
    return log_key(tmp_path)


def organisation(store, org_id):
    sql = "INSERT INTO organisation (org_id, name, created_at) VALUES (?, ?, '') ON CONFLICT DO NOTHING"
    store.scoped(org_id).run(lambda tx: tx.execute(sql, (org_id, org_id)))


def work(store, count=50):
    for _ in range(count):
        decide(store.scoped(ORG), name := task())
        store.scoped(ORG).later(ending(name))
        store.scoped(OTHER).run(lambda tx: tx.append(event("note", org_id=OTHER), b'{"a":1}'))


@pytest.fixture
def filled(url):
    store = PostgresStore(url)
    for org_id in (ORG, OTHER):
        organisation(store, org_id)
    work(store)
    store.close()
    return url


def take(url, file, key):
    with PostgresSnapshot(url) as snapshot:
        return back_up(snapshot, file, key)


def put(file, target, key, **options):
    with Reading(file) as archive:
        return restore(archive, target, key, by="os:ada", **options)


def events(store, org_id):
    return list(store.scoped(org_id).read.all_events(org_id=org_id))


def test_both_organisations_come_back_and_the_log_goes_on(tmp_path, filled, key):
    manifest = take(filled, tmp_path / "a.tappass", key)
    assert {log.org_id: log.size for log in manifest.logs} == {ORG: 100, OTHER: 50}
    with fresh_database() as target:
        put(tmp_path / "a.tappass", PostgresTarget(target), key)
        store = PostgresStore(target)
        try:
            for org_id, size in ((ORG, 100), (OTHER, 50)):
                found = events(store, org_id)
                assert [each.seq for each in found] == list(range(size + 1))
                assert (found[-1].type, found[-1].epoch) == ("log.restored", 2)
            assert decide(store.scoped(ORG), task()).epoch == 2
            third = "org_third"
            organisation(store, third)
            store.scoped(third).run(lambda tx: tx.append(event("note", org_id=third)))
        finally:
            store.close()
        take(target, tmp_path / "b.tappass", key)
        with Reading(tmp_path / "b.tappass") as archive:
            prove(archive)
            assert len(archive.manifest.logs) == 3


def test_a_backup_is_one_moment_though_others_write_on(tmp_path, filled, key):
    stop = threading.Event()
    store = PostgresStore(filled)

    def writing():
        while not stop.is_set():
            work(store, 1)

    writers = [threading.Thread(target=writing) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for number in range(3):
            take(filled, tmp_path / f"{number}.tappass", key)
            time.sleep(0.05)
    finally:
        stop.set()
        for writer in writers:
            writer.join(30)
        store.close()
    sizes = []
    for number in range(3):
        with Reading(tmp_path / f"{number}.tappass") as archive:
            prove(archive)
            sizes.append(sum(log.size for log in archive.manifest.logs))
    assert sizes == sorted(set(sizes))


def test_rows_move_from_one_database_to_the_other_and_back(tmp_path, key, url):
    with SqliteStore(tmp_path / "tappass.db") as store:
        for _ in range(300):
            decide(store, task())
    with SqliteSnapshot(tmp_path / "tappass.db") as snapshot:
        back_up(snapshot, tmp_path / "a.tappass", key)
    put(tmp_path / "a.tappass", PostgresTarget(url), key)
    store = PostgresStore(url)
    assert len(events(store, ORG)) == 301
    store.close()
    shared_server().execute("SELECT 1")
    take(url, tmp_path / "b.tappass", key)
    put(tmp_path / "b.tappass", SqliteTarget(tmp_path / "back" / "tappass.db"), key)
    with SqliteStore(tmp_path / "back" / "tappass.db") as store:
        assert [each.epoch for each in events(store, ORG)][-2:] == [2, 3]


def test_a_database_is_only_replaced_when_that_is_said_and_nobody_uses_it(tmp_path, filled, key):
    take(filled, tmp_path / "a.tappass", key)
    with pytest.raises(TapPassConfigError, match="--force puts the backup in its place"):
        put(tmp_path / "a.tappass", PostgresTarget(filled), key)
    store = PostgresStore(filled)
    work(store, 5)
    with pytest.raises(TapPassConnectionError, match="a server uses"):
        put(tmp_path / "a.tappass", PostgresTarget(filled), key, force=True)
    store.close()
    put(tmp_path / "a.tappass", PostgresTarget(filled), key, force=True)
    store = PostgresStore(filled)
    assert len(events(store, ORG)) == 101
    store.close()


def test_what_fails_in_the_middle_leaves_the_old_database(tmp_path, filled, key, monkeypatch):
    take(filled, tmp_path / "a.tappass", key)
    whole = postgres._filled

    def cut(connection, tables):
        whole(connection, tables)
        # As a kill of the process looks to the server.
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr(postgres, "_filled", cut)
    with pytest.raises(TapPassConnectionError):
        put(tmp_path / "a.tappass", PostgresTarget(filled), key, force=True)
    store = PostgresStore(filled)
    assert len(events(store, ORG)) == 100
    assert events(store, ORG)[-1].epoch == 1
    store.close()


def test_the_owner_of_the_tables_needs_no_more_to_back_up_and_restore(tmp_path, key, url):
    server, name = shared_server(), url.partition("?")[0].rpartition("/")[2]
    server.execute("DO $$ BEGIN CREATE ROLE tappass_owner LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    server.execute(f"ALTER DATABASE {name} OWNER TO tappass_owner")
    server.execute("ALTER SCHEMA public OWNER TO tappass_owner", database=name)
    owned = url.replace("postgres:@", "tappass_owner:@").replace("postgres@", "tappass_owner@")
    assert owned != url
    store = PostgresStore(owned)
    for org_id in (ORG, OTHER):
        organisation(store, org_id)
    work(store, 10)
    store.close()
    manifest = take(owned, tmp_path / "a.tappass", key)
    assert {log.org_id: log.size for log in manifest.logs} == {ORG: 20, OTHER: 10}
    put(tmp_path / "a.tappass", PostgresTarget(owned), key, force=True)
    with psycopg.connect(url) as connection:
        sql = "SELECT count(*) FROM pg_class WHERE relforcerowsecurity AND relname IN ('leaf', 'log', 'session')"
        assert connection.execute(sql).fetchone() == (3,)
    store = PostgresStore(owned)
    assert len(events(store, OTHER)) == 11
    store.close()


def test_an_empty_database_is_no_backup_and_an_unreachable_one_is_said(tmp_path, url):
    with PostgresSnapshot(url) as snapshot, pytest.raises(TapPassConfigError, match="nothing to back up"):
        back_up(snapshot, tmp_path / "a.tappass", LogKey(b"\1" * 32))
    with pytest.raises(TapPassConnectionError):
        PostgresSnapshot("postgresql://nobody@127.0.0.1:1/none")
    assert upgraded(url) == ("", "0001")
    assert upgraded(url) == ("0001", "0001")
