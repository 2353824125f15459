"""The path's rarer turns: what is closed, thrown, unknown or failing on the way."""

from __future__ import annotations

import anyio
import pytest

from tappass import (
    BreakGlassActive,
    PolicyBlockError,
    RedactionApplied,
    TapPassConfigError,
    TapPassConnectionError,
    ToolIntegrityViolation,
    TrustTierDenied,
    tappass_session,
    tool,
)
from tappass.enforcement.drivers import adrive, drive
from tappass.enforcement.effects import Effect
from tappass.enforcement.showing import Unrebuildable, rebuild
from tappass.enforcement.verdicts import refusal
from tappass.ext import Interception
from tappass.wire.correlation import Correlation
from tappass.wire.decisions import Decision
from tappass.wire.findings import Redaction
from tappass.wire.refusals import BreakGlass, IntegrityViolation, RedactionAppliedBody, TierDenied

NOTHING_SCANNED = """
    version: 1
    detect:
      secrets: {prompt: allow, arguments: allow, result: allow}
      pii: {prompt: allow, arguments: allow, result: allow}
"""


@pytest.fixture
def unscanned(tappass_plane):
    tappass_plane.policy(NOTHING_SCANNED)


def test_a_result_that_nothing_asks_to_see_passes_as_it_is(unscanned, audit_events):
    value = object()
    assert tool(name="give")(lambda: value)() is value

    @tool(name="give_items")
    def items():
        yield value
        yield "to ann@ac"
        yield "me.com"

    assert list(items()) == [value, "to ann@ac", "me.com"]
    assert [e.status for e in audit_events(type="call.ended")] == ["completed"] * 2
    assert [e.details for e in audit_events(type="call.ended")] == [{}, {}]


def test_a_tool_that_exits_as_a_generator_does_is_settled_as_abandoned(tappass_plane, audit_events):
    def leave():
        raise GeneratorExit

    async def aleave():
        raise GeneratorExit

    with pytest.raises(GeneratorExit):
        tool(name="leave")(leave)()

    async def main():
        with pytest.raises(GeneratorExit):
            await tool(name="aleave")(aleave)()

    anyio.run(main)
    assert [e.status for e in audit_events(type="call.ended")] == ["abandoned"] * 2


def test_an_awaitable_without_a_close_is_refused_as_well(tappass_plane, audit_events):
    class Later:
        def __await__(self):
            raise AssertionError("awaited")

    with pytest.raises(TapPassConfigError, match="returned an awaitable"):
        tool(name="later")(lambda: Later())()
    assert [e.status for e in audit_events(type="call.ended")] == ["failed"]


def test_no_driver_carries_out_what_it_does_not_know():
    class Teleport(Effect):
        pass

    def flow():
        yield Teleport()

    with pytest.raises(TypeError, match="no driver carries out Teleport"):
        drive(flow(), None, None)

    async def main():
        with pytest.raises(TypeError, match="no driver carries out Teleport"):
            await adrive(flow(), None, None)

    anyio.run(main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_is_thrown_into_an_async_stream_reaches_the_tool(backend, unscanned, audit_events):
    got = []

    @tool(name=f"athrown_{backend}")
    async def talk():
        try:
            got.append((yield 1))
            yield 2
        except KeyError as error:
            got.append(error)
            yield 3

    async def main():
        running = talk()
        assert await anext(running) == 1
        assert await running.asend("word") == 2
        error = KeyError("mine")
        assert await running.athrow(error) == 3
        assert got == ["word", error]
        with pytest.raises(StopAsyncIteration):
            await anext(running)

    anyio.run(main, backend=backend)
    assert [e.status for e in audit_events(type="call.ended")] == ["completed"]


def test_what_is_thrown_into_a_stream_without_a_way_in_comes_out_and_settles(unscanned, audit_events):
    from tappass.decorators import place
    from tappass.enforcement.drivers import astreaming, streaming
    from tappass.enforcement.flow import enforce_stream
    from tappass.toolspec import ToolSpec

    class Plain:
        """An iterator, both ways, and nothing else."""

        def __iter__(self):
            return self

        __aiter__ = __iter__

        def __next__(self):
            return 1

        async def __anext__(self):
            return 1

    governed = tool(name="plain")(lambda: Plain())
    spec: ToolSpec = governed.__tappass__

    def begun(face):
        session = place(spec)
        call = spec.call(session, (), {})
        return enforce_stream(call), getattr(session.plane, face), call

    async def abegun(_args, _kwargs):
        return begun("aio")

    running = streaming(lambda _args, _kwargs: begun("sync"))()
    assert next(running) == 1
    with pytest.raises(KeyError, match="mine"):
        running.throw(KeyError("mine"))

    async def main():
        arunning = astreaming(abegun)()
        assert await anext(arunning) == 1
        with pytest.raises(KeyError, match="mine"):
            await arunning.athrow(KeyError("mine"))

    anyio.run(main)
    assert [e.status for e in audit_events(type="call.ended")] == ["failed"] * 2


def test_a_coroutine_closed_while_it_asks_runs_nothing(tappass_plane, monkeypatch):
    ran = []

    class Never:
        def __await__(self):
            yield

    async def decide(_request):
        await Never()

    call = tool(name="asking")(_appending(ran))
    with tappass_session() as session:
        monkeypatch.setattr(session.plane.aio, "decide", decide)
        running = call()
        running.send(None)
        running.close()
    assert ran == []


def _appending(ran):
    async def call():
        ran.append(1)

    return call


@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_hook_whose_decision_cannot_be_recorded_refuses(face, tappass_plane, monkeypatch):
    def fail(_request):
        raise TapPassConnectionError("cannot record; nothing ran")

    async def afail(_request):
        fail(_request)

    with tappass_session() as session:
        monkeypatch.setattr(session.plane.sync, "decide", fail)
        monkeypatch.setattr(session.plane.aio, "decide", afail)
        with pytest.raises(TapPassConnectionError):
            if face == "sync":
                Interception("hook", {}).before()
            else:
                anyio.run(_in(session, Interception("hook", {}).abefore))


@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_hook_whose_settling_fails_gives_no_result_and_keeps_an_error_in_flight(face, tappass_plane, monkeypatch):
    def fail(_ending):
        raise TapPassConnectionError("cannot settle")

    async def afail(_ending):
        fail(_ending)

    with tappass_session() as session:
        for result, error, expected in (("x", None, TapPassConnectionError), (None, KeyError("mine"), KeyError)):
            call = Interception("hook", {})
            if face == "sync":
                call.before()
            else:
                anyio.run(_in(session, call.abefore))
            with monkeypatch.context() as here, pytest.raises(expected):
                here.setattr(session.plane.sync, "settle", fail)
                here.setattr(session.plane.aio, "settle", afail)
                if face == "sync":
                    call.after(result, error)
                else:
                    anyio.run(_in(session, lambda c=call, r=result, e=error: c.aafter(r, e)))


@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_hook_that_is_told_of_a_generators_exit_settles_as_abandoned(face, tappass_plane, audit_events):
    with tappass_session() as session:
        call = Interception("hook", {})
        if face == "sync":
            call.before()
            with pytest.raises(GeneratorExit):
                call.after(error=GeneratorExit())
        else:
            anyio.run(_in(session, call.abefore))
            with pytest.raises(GeneratorExit):
                anyio.run(_in(session, lambda: call.aafter(error=GeneratorExit())))
    assert [e.status for e in audit_events(type="call.ended")] == ["abandoned"]


def _in(session, call):
    async def main():
        from tappass.session.context import enter

        enter(session)
        return await call()

    return main


class Pair(tuple):
    __slots__ = ()


class Point:
    __slots__ = ("x",)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (Pair(["ab"]), "/0"),
        (["ab"], "/0~key"),
        (["ab"], "/1"),
        (["ab"], "/x"),
        ({"a": "b"}, "/b"),
        ({"a": ["ab"]}, "/a/0/0"),
        ("ab", "/0"),
        (True, ""),
        (None, ""),
        ({"ab"}, "/0"),
        (Point(), "/x"),
        (b"\xff\xff", ""),
    ],
)
def test_a_span_where_nothing_can_be_replaced_is_told(value, where):
    with pytest.raises(Unrebuildable):
        rebuild(value, [Redaction(kind="X", start=0, end=2, replacement="[X]", where=where)])
    if not where:
        return
    both = [Redaction(kind="X", start=0, end=1, replacement="[X]", where=at) for at in ("", where)]
    with pytest.raises(Unrebuildable):
        rebuild(value, both)


def test_every_refusal_becomes_its_exception():
    ids = Correlation(session_id="ses_1", task_id="tsk_1", audit_url="http://x")
    made = Redaction(kind="X", start=0, end=1, replacement="[X]")
    bodies = {
        BreakGlassActive: BreakGlass(level="relax", expires_at="2026-01-31T10:00:00Z"),
        TrustTierDenied: TierDenied(required_tier="trusted", actual_tier="limited"),
        ToolIntegrityViolation: IntegrityViolation(tool_name="t", violation="revoked"),
        RedactionApplied: RedactionAppliedBody(redactions=(made,), redacted_content="[X]"),
        PolicyBlockError: None,
    }
    for kind, body in bodies.items():
        error = refusal(Decision(outcome="block", correlation=ids, reason="because", refusal=body), "t")
        assert type(error) is kind
        assert (error.task_id, error.reason) == ("tsk_1", "because")
        assert str(error) == "`t` because; nothing ran; see http://x"
        for field in body.__struct_fields__ if body is not None else ():
            assert getattr(error, field) == getattr(body, field)
