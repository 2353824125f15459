"""What every guard promises, shown on a framework of a few lines that swallows what its tools raise."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import threading
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from tappass import ApprovalRequired, PolicyBlockError, TapPassConfigError, current_session, governed, resume, tool
from tappass.ext import (
    Child,
    Gate,
    Guard,
    Interception,
    ModelCall,
    ToolDefinition,
    current_guard,
    guarding,
    irreplaceable,
)
from tests.people import agree

POLICY = """
    version: 1
    rules:
      - {id: inside, tool: send, when: '!args.to.endsWith("@acme.com")', effect: block}
      - {id: ask, tool: pay, effect: require_approval}
      - {id: mask, tool: look, effect: redact, fields: [result, arguments], kinds: [EMAIL]}
      - {id: no-secrets, llm: bad-*, effect: block}
"""

_hook: ContextVar[Any] = ContextVar("toy_hook", default=None)


class Toy:
    """A framework: it calls the tools that it is told to, and turns what they raise into text."""

    def __init__(self, name: str = "toy") -> None:
        self.name = name
        self.ran: list[Any] = []

    def _step(self, name: str, arguments: dict[str, Any]) -> str:
        hook = _hook.get()
        try:
            call, arguments = hook(name, arguments) if hook else (None, arguments)
            self.ran.append((name, arguments))
            return str(call.after(f"did {name}") if call else f"did {name}")
        except Exception as error:
            return f"error: {type(error).__name__}"

    def kickoff(self, *calls: tuple[str, dict[str, Any]]) -> list[str]:
        return [self._step(*call) for call in calls]

    async def kickoff_async(self, *calls: tuple[str, dict[str, Any]]) -> list[str]:
        await anyio.lowlevel.checkpoint()
        return self.kickoff(*calls)

    def stream(self, *calls: tuple[str, dict[str, Any]]) -> Any:
        for call in calls:
            yield self._step(*call)

    def lazy(self, *calls: tuple[str, dict[str, Any]]) -> Any:
        return self.stream(*calls)

    async def astream(self, *calls: tuple[str, dict[str, Any]]) -> Any:
        for call in calls:
            await anyio.lowlevel.checkpoint()
            yield self._step(*call)

    def alazy(self, *calls: tuple[str, dict[str, Any]]) -> Any:
        return self.kickoff_async(*calls)


class ToyGuard(Guard[Toy]):
    guard = "guard_toy"
    kind = "toy"
    entrypoints = frozenset({"kickoff", "kickoff_async", "stream", "astream", "lazy", "alazy"})

    @contextlib.contextmanager
    def hooks(self) -> Any:
        def before(name: str, arguments: dict[str, Any]) -> Any:
            assert current_guard(ToyGuard) is self
            call = Interception(name, arguments)
            try:
                return call, call.before()
            except PolicyBlockError as error:
                raise RuntimeError(call.refused(error)) from None

        outer = _hook.get()
        _hook.set(before)
        try:
            yield
        finally:
            _hook.set(outer)


def guard_toy(toy: Any = None, /, **asked: Any) -> Any:
    return guarding(ToyGuard, toy, asked)


OUT = ("send", {"to": "eve@evil.example"})
IN = ("send", {"to": "ann@acme.com"})


@pytest.fixture
def plane(tappass_plane):
    tappass_plane.policy(POLICY)
    return tappass_plane


def statuses(audit_events: Any) -> list[str]:
    return [e.status for e in audit_events(type="session.closed")]


def test_a_decorated_entrypoint_has_a_session_named_as_the_framework_names_it(plane, audit_events):
    toy = Toy("payroll")
    run = guard_toy()(toy.kickoff)
    assert run(IN) == ["did send"]
    assert [(s.name, s.kind) for s in plane.plane.engine.store.read.sessions()] == [("payroll", "toy")]
    assert statuses(audit_events) == ["completed"]
    assert current_session() is None
    assert current_guard() is None


def test_a_swallowed_refusal_comes_back_at_the_end_of_the_unit(plane, audit_events):
    toy = Toy()
    with pytest.raises(PolicyBlockError, match="inside"):
        guard_toy()(toy.kickoff)(OUT, IN)
    assert toy.ran == [("send", {"to": "ann@acme.com"})]
    assert statuses(audit_events) == ["failed"]


def test_a_model_is_told_where_the_guard_tells(plane, audit_events):
    toy = Toy()
    assert guard_toy(on_block="tell")(toy.kickoff)(OUT, IN) == ["error: RuntimeError", "did send"]
    assert statuses(audit_events) == ["completed"]


def test_an_unknown_option_is_refused_and_so_is_an_unknown_choice():
    with pytest.raises(TapPassConfigError, match="knows no colour"):
        guard_toy(colour="red")
    with pytest.raises(TapPassConfigError, match="on_block='shrug'"):
        guard_toy(on_block="shrug")


def test_an_entered_guard_gives_the_object_and_its_session(plane, audit_events):
    toy = Toy()
    with guard_toy(toy) as guarded:
        assert isinstance(guarded, Toy)
        assert guarded.name == "toy"
        assert guarded.kickoff(IN) == ["did send"]
        assert guarded.session is current_session()
        ended = guarded.kickoff
    assert [e.session_id for e in audit_events(type="call.decided")] == [guarded.session.session_id]
    assert statuses(audit_events) == ["completed"]
    with pytest.raises(TapPassConfigError, match="has ended"):
        ended(IN)


def test_a_guarded_object_is_neither_copied_nor_pickled(plane):
    with guard_toy(Toy()) as guarded:
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TapPassConfigError):
                attempt(guarded)


@pytest.mark.parametrize("method", ["stream", "lazy"])
def test_a_stream_is_governed_until_it_ends_and_never_around_the_callers_code(method, plane, audit_events):
    toy = Toy()
    items = []
    for item in guard_toy()(getattr(toy, method))(IN, IN):
        assert current_session() is None
        assert statuses(audit_events) == []
        items.append(item)
    assert items == ["did send"] * 2
    assert len(audit_events(type="call.decided")) == 2
    assert statuses(audit_events) == ["completed"]


def test_a_stream_outlives_the_block_that_began_it(plane, audit_events):
    with guard_toy(Toy()) as guarded:
        stream = guarded.stream(IN, OUT)
    assert statuses(audit_events) == []
    assert next(stream) == "did send"
    with pytest.raises(PolicyBlockError):
        list(stream)
    assert statuses(audit_events) == ["failed"]


@pytest.mark.parametrize("how", ["close", "drop", "never begun"])
def test_a_stream_that_is_left_closes_its_session(how, plane, audit_events):
    stream = guard_toy()(Toy().lazy)(IN, IN)
    if how != "never begun":
        next(stream)
    if how == "close":
        stream.close()
    del stream
    gc.collect()
    assert statuses(audit_events) == ["completed"]


def test_async_entrypoints_are_the_same_awaited(anyio_backend, plane, audit_events):
    async def main() -> None:
        toy = Toy()
        assert await guard_toy()(toy.kickoff_async)(IN) == ["did send"]
        with pytest.raises(PolicyBlockError):
            await guard_toy()(toy.kickoff_async)(OUT)
        assert await guard_toy()(toy.alazy)(IN) == ["did send"]
        assert [item async for item in guard_toy()(toy.astream)(IN)] == ["did send"]
        async with guard_toy(toy) as guarded:
            assert await guarded.kickoff_async(IN) == ["did send"]
            stream = guarded.astream(IN)
        assert [item async for item in stream] == ["did send"]

    anyio.run(main, backend=anyio_backend)
    assert statuses(audit_events) == ["completed", "failed", "completed", "completed", "completed"]
    assert all(e.session_id for e in audit_events(type="call.decided"))


def test_the_same_guard_twice_is_one_session_and_other_options_are_refused(plane, audit_events):
    toy = Toy()
    once = guard_toy(name="a")(toy.kickoff)
    guard_toy(name="a")(once)(IN)
    assert len(audit_events(type="session.opened")) == 1
    with pytest.raises(TapPassConfigError, match=r"other options: \['name'\]"):
        guard_toy(name="b")(once)


def test_another_guard_around_is_a_child_session(plane, audit_events):
    class OtherGuard(ToyGuard):
        guard = "guard_other"

    toy = Toy()
    guarding(OtherGuard, guard_toy()(toy.kickoff), {})(IN)
    outer, inner = audit_events(type="session.opened")
    assert inner.parent == outer.session_id
    assert [e.session_id for e in audit_events(type="call.decided")] == [inner.session_id]


@pytest.mark.parametrize("order", ["governed outside", "governed inside", "tool outside", "tool inside"])
def test_guards_stack_with_decorators(order, plane, audit_events):
    toy = Toy()

    def run() -> list[str]:
        return toy.kickoff(IN)

    run.__name__ = f"run_{order.replace(' ', '_')}"
    other, place = order.split()
    decorate = governed if other == "governed" else tool
    stacked = decorate(guard_toy()(run)) if place == "outside" else guard_toy()(decorate(run))
    assert stacked() == ["did send"]
    assert len(audit_events(type="session.opened")) == 2 if order != "tool inside" else 1
    decided = [e.name for e in audit_events(type="call.decided")]
    assert decided == (["send"] if other == "governed" else [run.__name__, "send"])


def test_a_refusal_in_an_inner_guard_is_brought_back_by_the_outer_one(plane, audit_events):
    toy = Toy()

    def swallowing() -> str:
        try:
            guard_toy()(toy.kickoff)(OUT)
        except PolicyBlockError:
            return "swallowed"
        return "never"

    class OtherGuard(ToyGuard):
        guard = "guard_other"

    with pytest.raises(PolicyBlockError):
        guarding(OtherGuard, swallowing, {})()
    assert statuses(audit_events) == ["failed", "failed"]


def test_a_guard_speaks_through_guards_of_other_frameworks_and_not_through_its_own(plane):
    class OtherGuard(Guard[Toy]):
        guard = "guard_other"

    with pytest.raises(PolicyBlockError), guard_toy(Toy()), OtherGuard(Toy(), {}):
        assert isinstance(current_guard(ToyGuard), ToyGuard)
        assert isinstance(current_guard(), OtherGuard)
        with guard_toy(Toy()) as inner:
            assert current_guard(ToyGuard).session is inner.session
            inner.kickoff(OUT)
    assert current_guard() is None


def test_a_child_session_shares_the_guards_refusals(plane, audit_events):
    with pytest.raises(PolicyBlockError), guard_toy(Toy()) as guarded:
        child = Child(guarded.session, "helper", "agent")
        with child as session, contextlib.suppress(PolicyBlockError):
            Interception(*OUT, session=session).before()
    newest, oldest = plane.plane.engine.store.read.sessions()
    assert (oldest.name, newest.name) == ("toy", "helper")
    assert statuses(audit_events) == ["completed", "failed"]


def test_an_approval_suspends_and_a_resumed_run_redeems_it(plane, audit_events):
    toy = Toy()
    pay = ("pay", {"amount": 5})
    with pytest.raises(ApprovalRequired) as caught:
        guard_toy(on_block="tell")(toy.kickoff)(pay)
    assert toy.ran == []
    assert statuses(audit_events) == ["suspended"]
    assert agree(plane.plane.engine) == 1
    with resume(caught.value.resume_token):
        assert guard_toy()(toy.kickoff)(pay) == ["did pay"]
    assert toy.ran == [("pay", {"amount": 5})]


def test_a_refused_unit_asks_no_model_again(plane):
    with pytest.raises(PolicyBlockError), guard_toy(Toy()):
        with pytest.raises(PolicyBlockError):
            Interception(*OUT).before()
        with pytest.raises(PolicyBlockError, match="inside"):
            ModelCall("gpt-4o-mini", [{"role": "user", "content": "hi"}]).before()


def test_a_model_call_is_decided_and_its_tokens_are_recorded(plane, audit_events):
    with guard_toy(Toy()):
        call = ModelCall("gpt-4o-mini", [{"role": "user", "content": "hi"}])
        assert call.before()["messages"] == [{"role": "user", "content": "hi"}]
        call.heard("gpt-4o-mini-2024", 7, 3)
        call.after("hello")
        with pytest.raises(PolicyBlockError):
            ModelCall("bad-1", []).before()
        current_session().latch.told(current_session().latch.last)
    (ended,) = audit_events(type="call.ended")
    assert (ended.model, ended.tokens) == ("gpt-4o-mini-2024", (7, 3))


def test_what_can_only_run_redacted_is_refused_where_the_framework_fixes_arguments(plane, audit_events):
    with guard_toy(Toy(), on_block="tell") as guarded:
        call = Interception("look", {"text": "ann@acme.com"}, fixed=True)
        with pytest.raises(PolicyBlockError, match="cannot be given others") as caught:
            call.before()
        call.refused(caught.value)
    assert [e.status for e in audit_events(type="call.ended")] == ["failed"]
    assert guarded.session.status == "completed"


def test_a_gate_governs_a_tool_on_bare_threads_too(plane, audit_events):
    seen = []
    with guard_toy(Toy()) as guarded:
        gate = Gate("look", ToolDefinition(name="look"), session=guarded.session)
        thread = threading.Thread(
            target=lambda: seen.append(gate.run(lambda text: text + " of bob@acme.com", {"text": "ann@acme.com"}))
        )
        thread.start()
        thread.join()
    assert seen == ["[EMAIL] of [EMAIL]"]
    assert [e.session_id for e in audit_events(type="call.decided")] == [guarded.session.session_id]


def test_units_in_parallel_threads_never_mix(plane, audit_events):
    barrier = threading.Barrier(2)
    sessions = {}

    def run(name: str) -> None:
        with guard_toy(Toy(name)) as guarded:
            barrier.wait()
            for _ in range(5):
                guarded.kickoff(("send", {"to": f"{name}@acme.com"}))
            sessions[name] = guarded.session.session_id

    threads = [threading.Thread(target=run, args=(name,)) for name in ("a", "b")]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for session_id in sessions.values():
        assert len(audit_events(type="call.decided", session_id=session_id)) == 5


def test_a_result_that_cannot_be_replaced_is_withheld_and_said_to_have_run(plane):
    with pytest.raises(PolicyBlockError) as caught, guard_toy(Toy()) as guarded:
        irreplaceable(guarded.session, "look")
    assert (caught.value.blocked_by, caught.value.ran) == ("result-not-redactable", True)
    assert "`look` ran, but its result holds what must be redacted" in str(caught.value)
    assert "nothing ran" not in str(caught.value)
