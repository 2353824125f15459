"""Changes are told to whoever listens: in this process at once, of other processes soon."""

from __future__ import annotations

import threading

import pytest

from tappass.engine.store.port import APPROVAL, CONTROL
from tappass.engine.store.sqlite import SqliteStore
from tests.engine.store.events import ORG, decide


def test_a_change_is_told_once_it_is_committed_and_not_when_it_is_undone(store):
    told = []
    end = store.on_change(lambda *change: told.append(change))

    def undone(tx):
        tx.notify(ORG, APPROVAL)
        raise KeyError

    with pytest.raises(KeyError):
        store.run(undone)
    assert told == []
    store.run(lambda tx: [tx.notify(ORG, APPROVAL), told.append("inside")])
    assert told == ["inside", (ORG, APPROVAL)]
    end()
    store.run(lambda tx: tx.notify(ORG, APPROVAL))
    assert len(told) == 2


def test_a_listener_that_fails_keeps_no_other_from_hearing(store):
    told = []
    store.on_change(lambda *_: 1 / 0)
    store.on_change(lambda *change: told.append(change))
    store.run(lambda tx: tx.controlled(ORG))
    assert told == [(ORG, CONTROL)]


def test_what_another_process_changed_is_noticed_within_a_second(path, store):
    heard = threading.Event()
    decide(store, "first")
    store.on_change(lambda org_id, topic: heard.set() if (org_id, topic) == (ORG, CONTROL) else None)
    with SqliteStore(path) as other:
        other.run(lambda tx: tx.controlled(ORG))
        assert heard.wait(2)
