from __future__ import annotations

import pytest

from tappass.engine.store.sqlite import SqliteStore
from tappass.errors import TapPassConnectionError
from tests.engine.store.events import AGENT, PIPELINE, decide, ending, event


def seqs(events):
    return [each.seq for each in events]


@pytest.fixture
def filled(store):
    decide(store, "t0", session_id="a")
    decide(store, "t1", session_id="b", agent_uuid="other")
    store.run(ending("t0", session_id="a"))
    store.run(lambda tx: tx.append(event("policy.accepted", session_id="", pipeline_uuid="newer")))
    decide(store, "t2", session_id="a")
    return store


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"session_id": "a"}, [0, 2, 4]),
        ({"task_id": "t0"}, [0, 2]),
        ({"task_id": "unknown"}, []),
        ({"agent_uuid": AGENT}, [0, 2, 3, 4]),
        ({"pipeline_uuid": "newer"}, [3]),
        ({"type": "call.decided"}, [0, 1, 4]),
        ({"type": "call.decided", "session_id": "a"}, [0, 4]),
        ({"session_id": "a", "after": 0}, [2, 4]),
        ({"limit": 2}, [0, 1]),
        ({"limit": 2, "after": 1}, [2, 3]),
        ({"org_id": "org_unknown"}, []),
    ],
)
def test_events_are_filtered_and_paged_in_order(filled, wanted, found):
    assert seqs(filled.read.events(**wanted)) == found


def test_open_calls_are_those_without_an_ending(filled):
    assert [(call.task_id, call.session_id, call.decided_seq) for call in filled.read.open_calls()] == [
        ("t1", "b", 1),
        ("t2", "a", 4),
    ]
    assert [call.task_id for call in filled.read.open_calls(session_id="a")] == ["t2"]


def test_sessions_are_listed_newest_first_with_their_open_calls(filled):
    columns = "session_id, agent_uuid, pipeline_uuid, opened_at"
    sql = f"INSERT INTO session (org_id, {columns}) VALUES ('org_local', ?, ?, ?, ?)"
    for name, at in (("a", "2026-01-01"), ("b", "2026-01-02"), ("c", "2026-01-03")):
        filled.run(lambda tx, row=(name, AGENT, PIPELINE, at): tx.execute(sql, row))
    assert [(row.session_id, row.open_calls) for row in filled.read.sessions()] == [("c", 0), ("b", 1), ("a", 1)]
    assert [row.session_id for row in filled.read.sessions(before="2026-01-03", limit=1)] == ["b"]
    assert filled.read.sessions(agent_uuid="nobody") == []
    assert filled.read.session("a").opened_at == "2026-01-01"
    assert filled.read.session("z") is None


def test_a_stretch_of_leaves_is_read_in_pages(store):
    store.run(lambda tx: [tx.append(event(task_id=str(number))) for number in range(2500)])
    assert [seq for seq, *_ in store.read.leaves()] == list(range(2500))
    assert [seq for seq, *_ in store.read.leaves(start=990, end=1010)] == list(range(990, 1010))
    assert list(store.read.leaves(org_id="org_unknown")) == []


def test_a_reader_neither_writes_nor_waits_for_a_writer(filled):
    with pytest.raises(TapPassConnectionError, match="readonly"):
        filled.read.query("DELETE FROM leaf RETURNING seq")
    seen = filled.run(lambda tx: (tx.append(event()), len(filled.read.events()))[1])
    assert seen == 5


def test_an_unreadable_database_is_said(path):
    with SqliteStore(path) as store:
        decide(store, "t")
        path.rename(path.with_name("elsewhere"))
        with pytest.raises(TapPassConnectionError, match="cannot read"):
            store.read.events()
        path.with_name("elsewhere").rename(path)
        assert seqs(store.read.events()) == [0]


def test_reading_in_memory_works_inside_a_transaction():
    with SqliteStore(":memory:") as store:
        assert store.run(lambda tx: (tx.append(event()), len(store.read.events()))[1]) == 1
