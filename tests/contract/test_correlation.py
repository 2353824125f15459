"""Correlation: a session's token opens a session beneath it, for its receiver alone, on every plane."""

from __future__ import annotations

import pytest

from tappass import TapPassConfigError
from tappass.verify import CorrelationRefused


async def stamped(face, session, audience):
    return session.stamp(audience) if face.backend == "sync" else await session.stamp_async(audience)


async def joined(face, session, token, audience):
    if face.backend == "sync":
        return session.plane.sync.join(token, audience)
    return await session.plane.aio.join(token, audience)


async def closed(face, session, session_id):
    if face.backend == "sync":
        session.plane.sync.close(session_id, "failed")
    else:
        await session.plane.aio.close(session_id, "failed")


def test_a_token_opens_a_session_beneath_and_its_end_is_its_own(plane, face):
    async def scenario():
        async with face.session(name="order") as session:
            token = await stamped(face, session, "billing")
            assert token == await stamped(face, session, "billing") != await stamped(face, session, "shipping")
            record = await joined(face, session, token, "billing")
            assert record.parent == session.session_id != record.session_id
            assert (await joined(face, session, token, "billing")).session_id == record.session_id
            await closed(face, session, record.session_id)
            # Still open: it can stamp.
            assert await stamped(face, session, "packing")

    face.run(scenario)


def test_a_token_that_does_not_hold_says_in_what(plane, face):
    async def scenario():
        async with face.session(name="order") as session:
            token = await stamped(face, session, "billing")
            for text, audience, problem in ((token, "shipping", "audience"), ("no token", "billing", "malformed")):
                with pytest.raises(CorrelationRefused) as caught:
                    await joined(face, session, text, audience)
                assert caught.value.problem == problem
                assert str(caught.value).count("refused") == 1
        async with face.session(name="another") as other:
            with pytest.raises(CorrelationRefused) as caught:
                await joined(face, other, token, "billing")
            assert caught.value.problem == "session"

    face.run(scenario)


def test_a_closed_session_stamps_no_token(plane, face):
    async def scenario():
        async with face.session(name="order") as session:
            pass
        with pytest.raises(TapPassConfigError):
            await stamped(face, session, "billing")

    face.run(scenario)
