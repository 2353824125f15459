"""The store on PostgreSQL: callers share a transaction and do not notice; nothing of another organisation is seen."""

from __future__ import annotations

import io
import logging
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest

from tappass.engine import replaying, sessions
from tappass.engine.audit.export import export
from tappass.engine.audit.keys import log_key
from tappass.engine.audit.verify import verify
from tappass.engine.store import group, postgres_migrate, schema
from tappass.engine.store.group import Job
from tappass.engine.store.port import APPROVAL, CONTROL
from tappass.engine.store.postgres import PostgresStore
from tappass.engine.store.postgres_link import Address
from tappass.engine.store.postgres_tx import PostgresTx
from tappass.errors import TapPassConfigError, TapPassConnectionError
from tests.engine.store.events import ORG, decide, ending, event, task
from tests.postgres import fresh_database, shared_server

SET = "INSERT INTO setting (org_id, key, value) VALUES (?, ?, ?)"


@pytest.fixture
def url():
    with fresh_database() as fresh:
        yield fresh


@pytest.fixture
def store(url):
    with PostgresStore(url) as opened:
        yield opened


def verified(store, tmp_path):
    with open(tmp_path / "export.jsonl", "wb") as out:
        header = export(store, out, log_key(tmp_path))
    return verify(tmp_path / "export.jsonl", header.key)


def together(store, *actions):
    """Carry actions out on threads, so that all but the first share a transaction; return what each raised."""
    raised = [None] * len(actions)
    inside, go = threading.Event(), threading.Event()

    def hold(tx):
        inside.set()
        assert go.wait(10)

    def act(index, action):
        try:
            action()
        except Exception as error:
            raised[index] = error

    first = threading.Thread(target=store.run, args=(hold,))
    first.start()
    assert inside.wait(10)
    threads = [threading.Thread(target=act, args=each) for each in enumerate(actions)]
    for each in threads:
        each.start()
    while len(store._writing._group._queue) < len(actions):
        pass
    go.set()
    for each in [first, *threads]:
        each.join(10)
    return raised


def test_a_call_is_recorded_whole_and_in_order(store, tmp_path):
    name = task()
    decided = decide(store, name)
    store.later(ending(name))
    store.flush()
    assert [(each.seq, each.type) for each in store.read.all_events()] == [(0, "call.decided"), (1, "call.ended")]
    assert store.read.content(decided.seq) == b'{"amount":12}'
    assert [each.seq for each in store.read.events(agent_uuid=decided.agent_uuid)] == [0, 1]
    assert store.read.open_calls() == []
    assert verified(store, tmp_path).ok


def test_callers_of_one_transaction_fail_each_for_itself(store, tmp_path):
    def raising(tx):
        tx.append(event(task_id="never"))
        tx.execute(SET, (ORG, "never", ""))
        raise KeyError("mine")

    def wrong(tx):
        tx.append(event(task_id="never either"))
        tx.execute("INSERT INTO setting (org_id, nothing) VALUES (?, 1)", (ORG,))

    def right(tx):
        tx.append(event(task_id="right"))
        tx.execute(SET, (ORG, "right", "1"))

    raised = together(store, lambda: store.run(raising), lambda: store.run(right), lambda: store.run(wrong))
    assert [type(each) for each in raised] == [KeyError, type(None), psycopg.errors.UndefinedColumn]
    assert [each.task_id for each in store.read.all_events()] == ["right"]
    assert store.read.query("SELECT key FROM setting") == [("right",)]
    assert verified(store, tmp_path).ok


def test_who_raises_takes_only_its_own_leaves_with_it(store):
    def raising(tx):
        tx.append(event(task_id="never"))
        raise KeyError("mine")

    names = [f"right {number}" for number in range(3)]
    actions = [lambda name=name: decide(store, name) for name in names]
    raised = together(store, actions[0], lambda: store.run(raising), *actions[1:])
    assert [type(each) for each in raised] == [type(None), KeyError, type(None), type(None)]
    events = list(store.read.all_events())
    assert sorted(each.task_id for each in events) == names
    assert [each.seq for each in events] == [0, 1, 2]


def test_a_change_by_one_caller_is_committed_before_the_next_sees_it(store):
    decide(store, "first")
    seen = []

    def control(tx):
        seen.append((tx.control(ORG), store.read.head(ORG).size))

    together(store, lambda: store.run(lambda tx: tx.controlled(ORG)), lambda: store.run(control))
    assert store.run(lambda tx: tx.control(ORG)) == 1
    rows = store.read.query("SELECT control FROM log")
    assert rows == [(1,)]
    assert seen[0][0] == 1


def test_a_deferred_write_that_can_never_succeed_leaves_its_loss_in_the_log(store, caplog):
    def wrong(tx):
        tx.append(event("call.ended", "t"))
        tx.execute("INSERT INTO setting (org_id, nothing) VALUES (?, 1)", (ORG,))

    def raising(tx):
        tx.append(event("call.ended", "u"))
        raise KeyError("secret")

    with caplog.at_level(logging.CRITICAL, "tappass.store"):
        for write in (ending("before"), wrong, raising, ending("after")):
            store.later(write)
        store.flush()
    kinds = [(each.type, each.task_id, each.error_type) for each in store.read.all_events()]
    lost = [("record.lost", "t", "UndefinedColumn"), ("record.lost", "u", "KeyError")]
    assert kinds == [("call.ended", "before", ""), *lost, ("call.ended", "after", "")]


def test_what_is_asked_ahead_is_answered_as_if_in_turn(store):
    ask = ("SELECT value FROM setting WHERE org_id = ? AND key = ?", (ORG, "k"))
    seen = []

    def look(tx):
        seen.append(tx.execute(*ask).fetchall())
        tx.execute("UPDATE setting SET value = ? WHERE org_id = ? AND key = ?", (str(len(seen)), *ask[1]))

    store.run(lambda tx: tx.execute(SET, (ORG, "k", "0")))
    together(store, *[lambda: store.run(look, ahead=[ask])] * 3)
    assert seen == [[("0",)], [("1",)], [("2",)]]


def test_a_rowcount_and_rows_are_there_when_asked_for(store):
    def write(tx):
        tx.execute(SET, (ORG, "a", "100%"))
        changed = tx.execute("UPDATE setting SET value = ? WHERE key = ?", ("x", "none")).rowcount
        return changed, tx.execute("SELECT value FROM setting WHERE value LIKE '100%'").fetchall()

    assert store.run(write) == (0, [("100%",)])


def test_a_run_inside_a_transaction_is_refused_and_ends_nobody_elses(store):
    with pytest.raises(RuntimeError, match="inside a transaction"):
        store.run(lambda tx: store.run(lambda inner: None))
    assert decide(store, "after").seq == 0


def test_an_interrupted_leader_leaves_the_others_served(store):
    def interrupted(tx):
        raise KeyboardInterrupt

    def lead():
        with pytest.raises(KeyboardInterrupt):
            store.run(interrupted)

    raised = together(store, lead, lambda: decide(store, "one"), lambda: decide(store, "two"))
    assert raised == [None, None, None]
    assert sorted(each.task_id for each in store.read.all_events()) == ["one", "two"]


def test_a_query_that_forgets_whose_rows_it_wants_sees_nothing_of_another_organisation(store):
    other = store.scoped("org_other")
    for each, org_id in ((store, ORG), (other, "org_other")):
        decide(each, f"{org_id} call", org_id=org_id)
        each.run(lambda tx, org_id=org_id: tx.execute(SET, (org_id, "k", org_id)))
    assert store.read.query("SELECT value FROM setting") == [(ORG,)]
    assert other.read.query("SELECT value FROM setting") == [("org_other",)]
    assert other.read.query("SELECT task_id FROM leaf") == [("org_other call",)]
    assert other.run(lambda tx: tx.execute("SELECT task_id FROM leaf").fetchall()) == [("org_other call",)]
    assert [each.org_id for each in other.read.heads()] == ["org_other"]
    assert other.run(lambda tx: tx.execute("UPDATE setting SET value = 'mine'").rowcount) == 1
    assert store.read.query("SELECT value FROM setting") == [(ORG,)]


def test_rows_cannot_be_written_for_another_organisation(store):
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        store.scoped("org_other").run(lambda tx: tx.execute(SET, (ORG, "k", "v")))
    with pytest.raises(ValueError, match="scoped"):
        store.scoped("org_other").run(lambda tx: tx.append(event()))


def test_every_table_keeps_organisations_apart_and_the_service_owns_none(store):
    asked = "SELECT relname, relrowsecurity AND relforcerowsecurity, pg_get_userbyid(relowner) FROM pg_class WHERE"
    rows = store.read.query(f"{asked} relnamespace = 'public'::regnamespace AND relkind = 'r'")
    assert {row[0] for row in rows} == set(schema.metadata.tables) | {"alembic_version"}
    assert [row[0] for row in rows if not row[1]] == ["alembic_version"]
    assert "tappass_service" not in {row[2] for row in rows}
    assert store.read.query("SELECT current_user") == [("tappass_service",)]


@pytest.mark.parametrize(
    "sql", ["UPDATE leaf SET bytes = hash", "DELETE FROM leaf", "DELETE FROM log", "UPDATE checkpoint SET note = ''"]
)
def test_not_even_a_mistake_of_ours_changes_the_log(store, sql):
    decide(store, "t")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        store.run(lambda tx: tx.execute(sql))


def test_content_can_be_erased_and_the_log_still_verifies(store, tmp_path):
    decide(store, "t")
    assert store.erase_content([0]) == 1
    assert store.erase_content([0]) == 0
    assert store.read.content(0) is None
    assert verified(store, tmp_path).ok


def test_a_key_is_found_by_its_digest_alone_and_by_nothing_else(store):
    new = "INSERT INTO api_key (key_id, org_id, digest, scopes) VALUES (?, ?, ?, ?)"
    other = store.scoped("org_other")
    other.run(lambda tx: tx.execute(new, ("key_1", "org_other", b"digest", "agent")))
    other.run(lambda tx: tx.execute("INSERT INTO organisation (org_id, name) VALUES ('org_other', 'Other')"))
    assert store.key_by_digest(b"digest")[:2] == ("key_1", "org_other")
    assert store.key_by_digest(b"other") is None
    assert store.read.query("SELECT key_id FROM api_key") == []
    assert store.read.query("SELECT org_id FROM organisation") == []
    assert [row[0] for row in store.read.organisations()] == ["org_other"]


def test_a_change_is_heard_by_other_processes_within_a_moment(url, store):
    heard, told = threading.Event(), []
    with PostgresStore(url) as other:
        other.on_change(lambda *change: [told.append(change), heard.set()])
        store.run(lambda tx: [tx.notify(ORG, APPROVAL), tx.notify(ORG, APPROVAL)])
        assert heard.wait(1)
        store.run(lambda tx: tx.controlled(ORG))
        for _ in range(1000):
            if len(told) == 2:
                break
            threading.Event().wait(0.005)
    assert told == [(ORG, APPROVAL), (ORG, CONTROL)]


def test_many_servers_may_start_at_once_on_an_empty_database(url):
    stores, raised = [], []

    def start():
        try:
            stores.append(PostgresStore(url))
        except Exception as error:
            raised.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    for each in stores:
        decide(each, task())
        each.close()
    assert (raised, len(stores)) == ([], 8)
    with PostgresStore(url) as store:
        assert [each.seq for each in store.read.all_events()] == list(range(8))


def described(url):
    with psycopg.connect(url) as connection:
        asked = "SELECT table_name, column_name, data_type, is_nullable, collation_name FROM information_schema.columns"
        columns = connection.execute(f"{asked} WHERE table_schema = 'public' ORDER BY 1, 2").fetchall()
        policies = connection.execute("SELECT tablename, policyname, qual FROM pg_policies ORDER BY 1, 2").fetchall()
        granted = "SELECT table_name, privilege_type FROM information_schema.role_table_grants"
        grants = connection.execute(f"{granted} WHERE grantee = 'tappass_service' ORDER BY 1, 2").fetchall()
    return columns, policies, grants


def test_a_migrated_database_is_as_good_as_a_fresh_one(url):
    with fresh_database() as fresh:
        PostgresStore(fresh).close()
        postgres_migrate.upgrade(Address(url))
        with PostgresStore(url) as store:
            decide(store, "t")
        assert described(url) == described(fresh)


@contextmanager
def altered(url, sql):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql)
    yield


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("UPDATE alembic_version SET version_num = '9999'", "newer tappass"),
        ("COMMENT ON TABLE alembic_version IS '7'", "unreleased tappass"),
    ],
)
def test_a_database_of_another_version_is_refused(url, sql, says):
    PostgresStore(url).close()
    with altered(url, sql), pytest.raises(TapPassConfigError, match=says):
        PostgresStore(url)


def test_a_password_is_shown_nowhere(caplog):
    for url in (
        "postgresql://me:s3cret@127.0.0.1:1/x",
        "postgresql://me:s3cret@[/x",
        "postgresql://me:s3cret@127.0.0.1:1/x?nonsense=1",
    ):
        with pytest.raises((TapPassConnectionError, TapPassConfigError)) as caught:
            PostgresStore(url)
        shown = io.StringIO()
        error = caught.value
        while error is not None:
            shown.write(f"{error!r} {error}")
            error = error.__cause__
        assert "s3cret" not in shown.getvalue() + caplog.text
    assert Address("postgresql://me:s3cret@db.example:5433/x").shown == "postgresql://me@db.example:5433/x"


def test_a_server_may_log_in_as_who_owns_nothing(url):
    """The tables are made once by their owner; a server's user needs `tappass_service` and no more."""
    PostgresStore(url).close()
    server = shared_server()
    name = urlsplit(url).path[1:]
    server.execute(f"CREATE ROLE plain_{name} LOGIN")
    try:
        server.execute(f"GRANT tappass_service TO plain_{name}")
        with PostgresStore(url.replace("://postgres:", f"://plain_{name}:")) as store:
            decide(store, "t")
            assert store.read.query("SELECT current_user, session_user") == [("tappass_service", f"plain_{name}")]
    finally:
        server.execute(f"DROP ROLE plain_{name}")


def test_who_may_not_make_tables_is_told(url):
    server = shared_server()
    name = urlsplit(url).path[1:]
    server.execute(f"CREATE ROLE weak_{name} LOGIN")
    try:
        with pytest.raises(TapPassConfigError, match="may not make tables"):
            PostgresStore(url.replace("://postgres:", f"://weak_{name}:"))
    finally:
        server.execute(f"DROP ROLE weak_{name}")


def test_an_owner_without_the_service_role_is_walled_all_the_same(url):
    server = shared_server()
    name = urlsplit(url).path[1:]
    server.execute(f"CREATE ROLE owner_{name} LOGIN")
    try:
        server.execute(f"ALTER DATABASE {name} OWNER TO owner_{name}")
        with PostgresStore(url.replace("://postgres:", f"://owner_{name}:")) as store:
            assert store.read.query("SELECT current_user") == [(f"owner_{name}",)]
            other = store.scoped("org_other")
            decide(other, "theirs", org_id="org_other")
            key = "INSERT INTO api_key (key_id, org_id, digest) VALUES ('k', 'org_other', 'd')"
            organisation = "INSERT INTO organisation (org_id) VALUES ('org_other')"
            other.run(lambda tx: [tx.execute(sql) for sql in (key, organisation)])
            for table in ("leaf", "api_key", "organisation"):
                assert store.read.query(f"SELECT 1 FROM {table}") == []
            assert store.key_by_digest(b"d")[0] == "k"
            assert len(store.read.organisations()) == 1
    finally:
        server.execute(f"DROP OWNED BY owner_{name}", name)
        server.execute(f"ALTER DATABASE {name} OWNER TO postgres")
        server.execute(f"DROP ROLE owner_{name}")


def test_a_job_that_nobody_waits_for_is_carried_out_and_told_of_with_its_transactions_others(store):
    told, all_told = [], threading.Event()

    def hear(jobs):
        told.append([job.result for job in jobs])
        if sum(map(len, told)) == 4:
            all_told.set()

    def submitted(number):
        store.submit(Job(lambda tx: tx.append(event(task_id=f"call {number}")).seq, told=hear))

    raised = together(store, *[lambda n=number: submitted(n) for number in range(3)], lambda: decide(store, "waited"))
    store.submit(Job(lambda tx: "alone", told=hear))
    assert all_told.wait(10)
    assert raised == [None] * 4
    # What was committed together is told together.
    assert next(len(results) for results in told) == 3
    assert [each.seq for each in store.read.all_events()] == [0, 1, 2, 3]


def test_a_job_that_nobody_waits_for_has_its_error_and_nobody_elses(store):
    told, both = {}, threading.Event()

    def hear(jobs):
        told.update((job.fn.__name__, job.error) for job in jobs)
        if len(told) == 3:
            both.set()

    def wrong(tx):
        tx.execute("INSERT INTO setting (org_id, nothing) VALUES (?, 1)", (ORG,))

    def leaves(tx):
        tx.append(event(task_id="never"))
        raise SystemExit

    def right(tx):
        tx.append(event(task_id="right"))

    for fn in (wrong, leaves, right):
        store.submit(Job(fn, told=hear))
    assert both.wait(10)
    assert {name: type(error) for name, error in told.items()} == {
        "wrong": psycopg.errors.UndefinedColumn, "leaves": SystemExit, "right": type(None),
    }  # fmt: skip
    assert [each.task_id for each in store.read.all_events()] == ["right"]


def test_who_cannot_be_told_keeps_nobody_else_from_being_told(store, caplog):
    heard = threading.Event()

    def gone(_):
        raise RuntimeError("nobody there")

    with caplog.at_level(logging.CRITICAL, "tappass.store"):
        store.submit(Job(lambda tx: tx.append(event(task_id="one")), told=gone))
        store.submit(Job(lambda tx: tx.append(event(task_id="two")), told=lambda _: heard.set()))
        assert heard.wait(10)
    assert decide(store, "three").seq == 2


def test_a_thread_that_leads_goes_when_there_is_nothing_to_do_and_comes_back(store, monkeypatch):
    monkeypatch.setattr(group, "LINGER_S", 0.05)
    for _ in range(3):
        heard = threading.Event()
        store.submit(Job(lambda tx: tx.append(event()), told=lambda _, heard=heard: heard.set()))
        assert heard.wait(10)
        while any(each.name == "tappass-writer" for each in threading.enumerate()):
            time.sleep(0.01)
    assert store.read.head(ORG).size == 3


def test_rows_that_are_put_are_there_for_whoever_looks_and_go_together(store):
    put = (
        "INSERT INTO setting (org_id, key, value) VALUES (?, ?, ?) ON CONFLICT (org_id, key) DO UPDATE SET value = '2'"
    )
    ask = "SELECT value FROM setting WHERE org_id = ? AND key = ?"
    seen, statements = {}, []

    def writing(key):
        def write(tx):
            if not seen:
                execute = tx._connection.execute
                tx._connection.execute = lambda sql, *args, **more: (
                    statements.append(sql) or execute(sql, *args, **more)
                )
            seen.setdefault(key, []).append(tx.execute(ask, (ORG, key)).fetchall())
            tx.put(put, (ORG, key, "1"))

        return lambda: store.run(write, ahead=[(ask, (ORG, key))])

    assert together(store, *[writing(key) for key in ("a", "b", "c", "a")]) == [None] * 4
    assert seen == {"a": [[], [("1",)]], "b": [[]], "c": [[]]}
    assert sorted(store.read.query("SELECT key, value FROM setting")) == [("a", "2"), ("b", "1"), ("c", "1")]
    # The three first ones in one statement, when the second "a" looks; then that one.
    assert [sql.count("unnest") for sql in statements if "INSERT INTO setting" in sql] == [1, 1]


def test_a_plan_that_was_made_for_an_empty_table_is_not_kept_for_a_large_one(url, store):
    asks = [(replaying._ONE, (ORG, f"key {number}")) for number in range(3)]
    asks.append((sessions._STANDS, ("ses_1", ORG)))
    for _ in range(10):
        store.run(lambda tx: [tx.execute(*ask).fetchall() for ask in asks], ahead=asks)
    kept = store.run(lambda tx: tx.execute("SELECT statement FROM pg_prepared_statements").fetchall())
    assert kept
    assert not [sql for (sql,) in kept if "idempotency" in sql or "session" in sql]


def test_what_a_caller_put_off_is_written_with_the_transaction_that_the_caller_joins(store, monkeypatch):
    """Whoever comes while a transaction waits for other servers is let in: after what it put off before, as ever."""
    name, seen, ready = task(), [], PostgresTx.ready
    decide(store, name)

    def come_meanwhile(tx):
        monkeypatch.setattr(PostgresTx, "ready", ready)
        ready(tx)
        store.later(ending(name))
        late.start()
        while not store._writing._group._queue:
            pass

    def flush():
        store.flush()
        seen.extend(each.type for each in store.read.all_events())

    late = threading.Thread(target=flush)
    monkeypatch.setattr(PostgresTx, "ready", come_meanwhile)
    decide(store, task())
    late.join(10)
    assert seen == ["call.decided", "call.ended", "call.decided"]
