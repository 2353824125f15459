"""A session sent along and entered on the other side: on every plane, sync and async."""

from __future__ import annotations

import pickle

import pytest

from tappass import CorrelationRefused, current_session, join_correlation, with_correlation, with_correlation_async

HEADER = "tappass-correlation"


async def sent(face, carrier=None, audience="billing"):
    if face.backend == "sync":
        return with_correlation(carrier, audience=audience)
    return await with_correlation_async(carrier, audience=audience)


def asked(face, carrier, **options):
    """Return an async context manager whatever the face."""
    unit = join_correlation(carrier, **{"audience": "billing", **options})
    return unit if face.backend != "sync" else _Sync(unit)


class _Sync:
    def __init__(self, unit):
        self._unit = unit

    async def __aenter__(self):
        return self._unit.__enter__()

    async def __aexit__(self, *error):
        return self._unit.__exit__(*error)


def test_calls_of_the_receiver_belong_beneath_the_callers_session(plane, face):
    charge = face.tool(lambda: "charged", name="charge_beneath")

    async def scenario():
        async with face.session(name="order") as session:
            headers = await sent(face, {"accept": "*/*"})
            assert headers["accept"] == "*/*"
            # What the receiver has active itself, whatever it is, comes back.
            async with asked(face, headers) as joined:
                assert current_session() is joined
                assert joined.parent == session.session_id != joined.session_id
                assert await face.call(charge) == "charged"
                inner = await sent(face, audience="bank")
                async with asked(face, inner, audience="bank") as below:
                    assert below.parent == joined.session_id
                assert current_session() is joined
            assert current_session() is session
        (decided,) = plane.events(type="call.decided", name="charge_beneath")
        assert (decided.session_id, decided.outcome) == (joined.session_id, "allow")

    face.run(scenario)


def test_neither_session_is_closed_by_leaving(plane, face):
    async def scenario():
        async with face.session(name="order") as session:
            headers = await sent(face)
            with pytest.raises(KeyError):
                async with asked(face, headers) as joined:
                    raise KeyError("mine")
            assert current_session() is session
            assert not plane.events(type="session.closed")
            async with asked(face, headers) as again:
                assert again.session_id == joined.session_id
            await sent(face, audience="shipping")

    face.run(scenario)


def test_parallel_receivers_of_one_session_do_not_close_it_under_each_other(plane, face):
    charge = face.tool(lambda: "charged", name="charge_parallel")

    async def scenario():
        async with face.session(name="order"):
            headers = await sent(face)
            async with asked(face, headers) as first:
                async with asked(face, headers) as second:
                    assert first.session_id == second.session_id
                assert current_session() is first
                assert await face.call(charge) == "charged"

    face.run(scenario)


def test_a_token_that_does_not_hold_is_refused_and_nothing_runs(plane, face):
    async def scenario():
        async with face.session(name="order") as session:
            headers = await sent(face)
            start, other = headers[HEADER][:-10], "A" if headers[HEADER][-10] != "A" else "B"
            changed = start + other + headers[HEADER][-9:]
            cases = [
                ({}, {}, "missing"),
                (None, {}, "missing"),
                (headers, {"audience": "shipping"}, "audience"),
                ({HEADER: changed}, {}, "signature"),
                ({HEADER: ""}, {}, "malformed"),
                ({HEADER: "x" * 100_000}, {}, "malformed"),
                ({HEADER: "tükçé"}, {}, "malformed"),
                ({HEADER: 7}, {}, "malformed"),
                ({HEADER: headers[HEADER], HEADER.upper(): headers[HEADER]}, {}, "malformed"),
                ([(HEADER.encode(), b"\xff\xfe")], {}, "malformed"),
                ([(HEADER.encode(), headers[HEADER].encode())] * 2, {}, "malformed"),
            ]
            for carrier, options, problem in cases:
                for required in (True, False):
                    if problem == "missing" and not required:
                        continue
                    with pytest.raises(CorrelationRefused) as caught:
                        async with asked(face, carrier, required=required, **options):
                            raise AssertionError("never reached")
                    assert caught.value.problem == problem, carrier
                    assert current_session() is session
        with pytest.raises(CorrelationRefused) as caught:
            async with asked(face, headers):
                raise AssertionError("never reached")
        assert caught.value.problem == "session"
        assert pickle.loads(pickle.dumps(caught.value)).problem == "session"

    face.run(scenario)


def test_without_a_token_that_is_not_required_the_calls_have_a_session_of_their_own(plane, face):
    async def scenario():
        async with asked(face, {}, required=False, name="alone") as alone:
            assert (alone.name, alone.parent) == ("alone", "")
        assert current_session() is None
        (closed,) = plane.events(type="session.closed", session_id=alone.session_id)
        assert closed.status == "completed"

    face.run(scenario)


def test_the_receiver_is_known_by_its_agents_name_unless_it_says_otherwise(plane, face):
    async def scenario():
        async with face.session(name="order") as session:
            headers = await sent(face, audience="default")
            async with asked(face, headers, audience="") as joined:
                assert joined.parent == session.session_id

    face.run(scenario)
