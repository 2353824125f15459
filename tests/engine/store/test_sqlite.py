from __future__ import annotations

import hashlib
import threading

import pytest

from tappass.engine.audit import merkle
from tappass.engine.store.sqlite import SqliteStore
from tappass.errors import TapPassConfigError, TapPassConnectionError
from tappass.wire.codec import canonical
from tests.engine.store.events import decide, ending, event, task


def types(store):
    return [each.type for each in store.read.events(limit=10_000)]


@pytest.fixture(params=["file", "memory"])
def any_store(request, path):
    with SqliteStore(path if request.param == "file" else ":memory:") as opened:
        yield opened


def test_a_leaf_is_stored_as_the_canonical_bytes_of_its_event_with_contiguous_numbers(any_store):
    written = [decide(any_store, task()) for _ in range(5)]
    stored = list(any_store.read.leaves())
    assert stored == [(seq, canonical(each), merkle.leaf_hash(canonical(each))) for seq, each in enumerate(written)]
    assert {(each.log_id, each.epoch) for each in written} == {(written[0].log_id, 1)}
    assert written[0].log_id.startswith("log_")


def test_the_head_holds_the_root_of_all_leaves(any_store):
    for _ in range(13):
        decide(any_store, task())
    head = any_store.read.head()
    hashes = [merkle.leaf_hash(leaf) for _, leaf, _ in any_store.read.leaves()]
    assert (head.size, merkle.root(head.frontier)) == (13, merkle.subtree_root(hashes))


def test_the_digest_in_a_leaf_is_of_the_salt_and_the_stored_bytes(any_store):
    written = decide(any_store, task(), b"secret")
    salt, body = any_store.read.contents()[0]
    assert (len(salt), body) == (32, b"secret")
    assert written.content == hashlib.sha256(salt + body).hexdigest()
    assert any_store.read.content(0) == b"secret"


def test_content_that_is_not_stored_has_no_digest(any_store):
    assert decide(any_store, task(), None).content is None
    assert any_store.read.content(0) is None


def test_each_organisation_has_a_log_of_its_own(any_store):
    first, other = decide(any_store, task()), decide(any_store, task(), org_id="org_2")
    assert (first.seq, other.seq) == (0, 0)
    assert first.log_id != other.log_id
    assert [each.org_id for each in any_store.read.events(org_id="org_2")] == ["org_2"]


def test_a_failing_function_undoes_its_own_writes_and_keeps_what_waited_in_order(any_store):
    name, others = task(), [task(), task()]
    decide(any_store, name)
    any_store.later(ending(name))

    def fail(tx):
        tx.append(event(task_id=others[0]))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        any_store.run(fail)
    decide(any_store, others[1])
    assert [(e.type, e.task_id) for e in any_store.read.events()] == [
        ("call.decided", name),
        ("call.ended", name),
        ("call.decided", others[1]),
    ]


def test_what_waits_is_written_without_another_call(any_store):
    written = threading.Event()
    any_store.later(lambda tx: (tx.append(event("call.ended", "t")), written.set()))
    assert written.wait(5)
    any_store.flush()
    assert types(any_store) == ["call.ended"]


def test_what_waits_is_written_when_the_store_closes(path):
    with SqliteStore(path) as store:
        for number in range(3):
            store.later(ending(str(number)))
    with SqliteStore(path) as again:
        assert [each.task_id for each in again.read.events()] == ["0", "1", "2"]


def test_a_deferred_write_that_can_never_succeed_is_replaced_by_a_leaf_that_says_so(any_store, caplog):
    any_store.later(ending("before"))
    any_store.later(lambda tx: tx.append(event("call.ended", "bad", details={"text": "\ud800"})))
    any_store.later(lambda tx: tx.execute("SELECT nonsense FROM nowhere"))
    any_store.later(ending("after"))
    decide(any_store, "next")
    rows = [(each.type, each.task_id, each.error_type) for each in any_store.read.events()]
    assert rows == [
        ("call.ended", "before", ""),
        ("record.lost", "bad", "UnicodeEncodeError"),
        ("call.ended", "after", ""),
        ("call.decided", "next", ""),
    ]
    assert "given up" in caplog.text


def test_a_transaction_inside_a_transaction_is_refused_rather_than_waiting_for_itself(any_store):
    with pytest.raises(RuntimeError, match="inside a transaction"):
        any_store.run(lambda tx: any_store.run(lambda inner: None))
    decide(any_store, task())


def test_a_signal_handler_inside_a_transaction_may_queue_and_flush(any_store):
    def interrupted(tx):
        any_store.later(ending("from a handler"))
        any_store.flush()

    any_store.run(interrupted)
    any_store.flush()
    assert types(any_store) == ["call.ended"]


def test_an_interrupt_leaves_no_transaction_open(any_store):
    def interrupted(tx):
        tx.append(event())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        any_store.run(interrupted)
    decide(any_store, "t")
    assert [each.task_id for each in any_store.read.events()] == ["t"]


def test_a_closed_store_says_so_and_closing_again_is_safe(path):
    store = SqliteStore(path)
    store.close()
    store.close()
    with pytest.raises(TapPassConnectionError, match=r"closed; nothing ran"):
        decide(store, task())


def test_an_unknown_setting_for_durability_is_refused(path):
    with pytest.raises(TapPassConfigError, match="'normal' or 'full'"):
        SqliteStore(path, synchronous="off")


def test_threads_take_turns(store):
    def write():
        for _ in range(50):
            name = task()
            decide(store, name)
            store.later(ending(name))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    store.flush()
    assert [seq for seq, *_ in store.read.leaves()] == list(range(400))
    assert store.read.open_calls() == []
