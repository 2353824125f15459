"""A session's tokens: one a receiver and call, until shortly before it expires."""

from __future__ import annotations

import pytest

from tappass import tappass_session, tappass_session_async, tool
from tappass.session import stamps
from tappass.session.stamps import Stamps
from tappass.testing import memory_plane
from tappass.wire.service import Stamp


def test_a_retry_to_a_receiver_takes_the_same_token_and_another_receiver_another():
    with memory_plane(), tappass_session(name="s") as session:
        assert session.stamp("billing") == session.stamp("billing") != session.stamp("shipping")


def test_within_a_call_the_token_names_that_call():
    seen = []

    @tool
    def ship():
        from tappass import current_session

        seen.append((current_session().task_id, current_session().stamp("billing")))

    with memory_plane() as plane, tappass_session(name="s") as session:
        outside = session.stamp("billing")
        ship()
        ((task_id, inside),) = seen
        assert inside != outside
        assert plane.plane.engine.issuer.read(inside).pid == task_id
        assert plane.plane.engine.issuer.read(outside).pid == ""


@pytest.mark.anyio
async def test_async_code_stamps_without_a_thread_of_its_own():
    with memory_plane() as plane:
        async with tappass_session_async(name="s") as session:
            token = await session.stamp_async("billing")
            assert token == await session.stamp_async("billing") == session.stamp("billing")
            joined = await session.plane.aio.join(token, "billing")
            assert joined.parent == session.session_id
            assert plane.plane.engine.issuer.read(token).aud == "billing"


def test_a_token_is_fetched_anew_a_minute_before_it_expires(monkeypatch):
    now = [1_900_000_000.0]
    monkeypatch.setattr(stamps.time, "time", lambda: now[0])
    kept = Stamps()
    kept.keep(("billing", ""), Stamp(token="t", expires_at="2030-03-17T17:56:40.000000Z"))  # 600 s on
    now[0] += 539
    assert kept.get(("billing", "")) == "t"
    now[0] += 2
    assert kept.get(("billing", "")) == ""


def test_what_is_kept_is_bounded():
    kept = Stamps()
    for number in range(10_000):
        kept.keep((str(number), ""), Stamp(token="t", expires_at="2100-01-01T00:00:00.000000Z"))
    assert sum(bool(kept.get((str(number), ""))) for number in range(10_000)) < 1000
