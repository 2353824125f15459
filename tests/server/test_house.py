"""What a server does beside its requests."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tappass.engine.store.sqlite import SqliteStore
from tappass.engine.trust import Agents
from tappass.server import house
from tappass.server.house import House
from tappass.wire.decisions import Action, DecisionRequest
from tests.people import ADA, HandClock


def test_a_server_forgets_the_answers_that_nobody_can_ask_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house, "SWEEP_S", 0.05)
    monkeypatch.setattr(house, "_AT_ONCE", 2)
    clock = HandClock()
    store = SqliteStore(tmp_path / "tappass.db", clock=clock)
    served = House(store, tmp_path, url=f"sqlite:///{tmp_path}/tappass.db", clock=clock)
    try:
        engine = served.plane().engine
        agent = Agents(store, engine.leaves, clock).add(ADA, "clerk")
        session_id = engine.implicit_session(agent.agent_uuid).session_id
        for number in range(5):
            action = Action(kind="tool", name="look", arguments={})
            engine.govern(
                DecisionRequest(action=action, session_id=session_id, task_id=f"tsk_{number}"), credential="key_1"
            )
        assert kept(store) == 5
        clock.pass_s(24 * 3600)
        until = time.monotonic() + 30
        while kept(store):
            assert time.monotonic() < until, "nobody swept"
            time.sleep(0.02)
    finally:
        served.stop()


def kept(store: SqliteStore) -> int:
    row = store.read.row("SELECT count(*) FROM idempotency")
    assert row is not None
    return int(row[0])
