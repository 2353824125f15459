"""@tool and @governed keep what a callable is, and leave no way around."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from typing import Any

import anyio
import pytest

from tappass import PolicyBlockError, TapPassConfigError, current_session, govern, governed, tool
from tappass.proxies import GovernedCallable

BLOCK_ALL = """
    version: 1
    rules:
      - {id: none, tool: '*', effect: block}
"""


@tool
def documented(a: int, /, b: str = "x", *rest: int, key: float, **more: str) -> dict[str, Any]:
    """Return everything."""
    return {"a": a, "b": b, "rest": rest, "key": key, "more": more}


@tool
async def acoroutine(n: int) -> int:
    """Wait."""
    await anyio.lowlevel.checkpoint()
    return n + 1


@tool
def generate(n: int):
    """Count; answer what is sent."""
    got = []
    for i in range(n):
        got.append((yield i))
    return got


@tool
async def agenerate(n: int):
    """Count."""
    for i in range(n):
        yield i


class Desk:
    def __init__(self) -> None:
        self.sold: list[str] = []

    @tool
    def sell(self, item: str) -> int:
        self.sold.append(item)
        return len(self.sold)

    @classmethod
    @tool
    def label(cls, text: str) -> str:
        return f"{cls.__name__}:{text}"

    @tool
    @classmethod
    def label2(cls, text: str) -> str:
        return f"{cls.__name__}:{text}"

    @staticmethod
    @tool
    def price(item: str) -> int:
        return len(item)

    @tool
    @staticmethod
    def price2(item: str) -> int:
        return len(item)


class Adder:
    """A callable object with nothing else to call."""

    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, n: int) -> int:
        return n + self.by


@tool
@functools.lru_cache
def cached(n: int) -> int:
    return n


def test_signature_hints_docstring_and_kind_are_kept():
    assert str(inspect.signature(documented)) == (
        "(a: 'int', /, b: 'str' = 'x', *rest: 'int', key: 'float', **more: 'str') -> 'dict[str, Any]'"
    )
    assert documented.__doc__ == "Return everything."
    assert documented.__annotations__["key"] == "float"
    assert documented.__wrapped__.__name__ == documented.__name__ == "documented"
    assert documented.__module__ == __name__
    assert inspect.isfunction(documented)
    assert inspect.iscoroutinefunction(acoroutine)
    assert inspect.isgeneratorfunction(generate)
    assert inspect.isasyncgenfunction(agenerate)
    for function in (documented, acoroutine, generate, agenerate):
        assert pickle.loads(pickle.dumps(function)) is function
        assert tool(function) is function
        assert govern([function]) == [function]


def test_functions_come_from_decorator_and_objects_from_wrapt():
    import decorator
    import wrapt

    assert isinstance(documented, type(decorator.decorate))  # a real function
    assert documented.__qualname__ == "documented"
    plus = tool(name="plus")(Adder(1))
    assert isinstance(plus, wrapt.ObjectProxy)
    assert isinstance(plus, Adder)


def test_policy_sees_arguments_by_name_whole_with_defaults_filled(tappass_plane, audit_events):
    assert documented(1, "y", 2, 3, key=4.0, b_="z")["rest"] == (2, 3)
    (event,) = audit_events(type="call.decided")
    content = tappass_plane.plane.engine.store.read.content(event.seq)
    assert b'"arguments":{"a":1,"b":"y","rest":[2,3],"key":4.0,"more":{"b_":"z"}}' in content
    documented(1, key=4.0, a="clash")
    content = tappass_plane.plane.engine.store.read.content(audit_events(type="call.decided")[-1].seq)
    assert b'"b":"x"' in content
    assert b'"more":{"a":"clash"}' in content


def test_wrong_arguments_are_python_errors_and_leave_no_decision(tappass_plane, audit_events):
    for args, kwargs in (((), {}), ((1,), {"unknown": 2}), ((1, 2), {}), ((1,), {"n": 1})):
        with pytest.raises(TypeError):
            cached(*args, **kwargs)
    assert audit_events(type="call.decided") == []


def test_methods_class_methods_and_static_methods_are_governed_without_their_receiver(tappass_plane, audit_events):
    desk = Desk()
    assert desk.sell("pen") == 1
    assert Desk.sell(desk, "ink") == 2
    assert desk.label("a") == Desk.label("a") == "Desk:a"
    assert desk.label2("a") == Desk.label2("a") == "Desk:a"
    assert desk.price("pen") == Desk.price("pen") == 3
    assert desk.price2("pen") == Desk.price2("pen") == 3
    decided = audit_events(type="call.decided")
    assert len(decided) == 10
    for event in decided:
        content = tappass_plane.plane.engine.store.read.content(event.seq)
        assert b"self" not in content
        assert b"cls" not in content


def test_a_static_argument_called_self_is_not_hidden_from_policy(tappass_plane):
    class Odd:
        @staticmethod
        @tool(name="odd_static")
        def run(self: str) -> str:
            return self

    tappass_plane.policy("""
        version: 1
        rules:
          - {id: no, tool: odd_static, when: args.self == "bad", effect: block}
    """)
    assert Odd.run("good") == "good"
    with pytest.raises(PolicyBlockError):
        Odd.run("bad")


def test_a_governed_generator_takes_what_is_sent_and_thrown_and_returns(tappass_plane, audit_events):
    running = generate(3)
    assert next(running) == 0
    assert running.send("a") == 1
    assert running.send("b") == 2
    with pytest.raises(StopIteration) as stop:
        running.send("c")
    assert stop.value.value == ["a", "b", "c"]
    running = generate(3)
    next(running)
    with pytest.raises(KeyError):
        running.throw(KeyError("mine"))
    assert [e.status for e in audit_events(type="call.ended")] == ["completed", "failed"]


def test_a_callable_object_stays_what_it_is_and_its_copies_are_governed(tappass_plane, audit_events):
    plus = tool(name="plus")(Adder(2))
    assert plus(1) == 3
    assert plus.by == 2
    for twin in (copy.copy(plus), copy.deepcopy(plus), pickle.loads(pickle.dumps(plus))):
        assert isinstance(twin, GovernedCallable)
        assert twin(1) == 3
    assert len(audit_events(type="call.decided", name="plus")) == 4


def test_partials_and_bound_methods_are_governed_as_their_own_kind(tappass_plane, audit_events):
    def add(a: int, b: int) -> int:
        return a + b

    desk = Desk()
    plus_one, sell = govern([functools.partial(add, 1), Adder(5).__call__])
    assert type(plus_one) is functools.partial
    assert inspect.ismethod(sell)
    assert plus_one(2) == 3
    assert plus_one.func(2, 2) == 4
    assert sell(1) == 6
    assert len(audit_events(type="call.decided")) == 3
    assert govern([desk.sell])[0]("pen") == 1
    assert len(audit_events(type="call.decided")) == 4


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        (Desk, "Desk is a class"),
        (3, "a int is not callable"),
        (type("Both", (), {"__call__": lambda self: 1, "run": lambda self: 2})(), "a Both can be called .* by run"),
    ],
)
def test_a_shape_that_cannot_be_governed_on_every_path_is_refused_by_name(shape, names):
    with pytest.raises(TapPassConfigError, match=names):
        govern([shape])


def test_a_second_function_under_one_name_is_refused(tappass_plane):
    def first() -> None: ...
    def second() -> None: ...

    kept = tool(name="same")(first)
    with pytest.raises(TapPassConfigError, match=r"two tools are called `same`"):
        tool(name="same")(second)
    assert tool(name="same")(kept) is kept


def test_conflicting_options_on_what_is_governed_already_are_refused():
    def once() -> None: ...

    kept = tool(name="kept_once")(once)
    with pytest.raises(TapPassConfigError, match="governed already, with name='kept_once'"):
        tool(name="other")(kept)


def test_a_copied_mark_does_not_pass_for_governed(tappass_plane):
    @functools.wraps(documented)
    def impostor(*args: Any, **kwargs: Any) -> str:
        return "ran ungoverned"

    with pytest.raises(TapPassConfigError, match="below another decorator"):
        govern([impostor])


def test_governed_puts_a_session_around_every_kind(tappass_plane, audit_events):
    seen = []

    @governed
    def plain() -> str:
        seen.append(current_session().name)
        return "plain"

    @governed(name="titled")
    async def acoro() -> str:
        seen.append(current_session().name)
        return "acoro"

    @governed
    def stream():
        seen.append(current_session().name)
        yield 1
        seen.append(current_session().name)

    class Work:
        @governed
        def method(self) -> str:
            seen.append(current_session().name)
            return "m"

        @classmethod
        @governed
        def klass(cls) -> str:
            return current_session().name

    assert plain() == "plain"
    assert anyio.run(acoro) == "acoro"
    running = stream()
    assert next(running) == 1
    assert current_session() is None, "a session is never active across a yield"
    assert list(running) == []
    assert Work().method() == "m"
    assert Work.klass() == "klass"
    assert governed(plain) is plain
    with pytest.raises(TapPassConfigError, match="other options"):
        governed(name="another")(plain)
    assert seen == ["plain", "titled", "stream", "stream", "method"]
    assert [e.status for e in audit_events(type="session.closed")] == ["completed"] * 5


def test_governed_over_tool_stays_governed_once(tappass_plane, audit_events):
    @governed
    @tool(name="inner_tool")
    def both(n: int) -> int:
        return n

    assert govern([both]) == [both]
    assert both(3) == 3
    assert len(audit_events(type="call.decided")) == 1


def test_a_sync_function_that_returns_an_awaitable_is_refused(tappass_plane, audit_events):
    ran = []

    async def later() -> None:
        ran.append(1)

    sneaky = tool(name="sneaky")(lambda: later())
    with pytest.raises(TapPassConfigError, match="returned an awaitable"):
        sneaky()
    assert ran == []
    assert [e.status for e in audit_events(type="call.ended")] == ["failed"]


def test_a_tool_may_raise_stop_iteration(tappass_plane, audit_events):
    stop = tool(name="stopper")(lambda: next(iter(())))
    with pytest.raises(StopIteration):
        stop()
    assert [e.status for e in audit_events(type="call.ended")] == ["failed"]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (lambda: tool("send_email"), r"@tool\(name='send_email'\)"),
        (lambda: governed("nightly"), r"@governed\(name='nightly'\)"),
        (lambda: govern(Desk.sell), r"govern\(\) takes a list of tools: govern\(\[sell\]\)"),
        (lambda: govern("sell"), r"govern\(\[sell\]\)"),
    ],
)
def test_who_forgets_a_name_or_a_bracket_is_told_what_to_write(wrong, right):
    with pytest.raises(TapPassConfigError, match=right):
        wrong()


def test_a_wrong_call_names_the_tool(tappass_plane, audit_events):
    pay = tool(name="pay_wrongly")(lambda amount: amount)
    with pytest.raises(TypeError, match=r"pay_wrongly\(\) missing a required argument: 'amount'"):
        pay()
    with pytest.raises(TypeError, match=r"pay_wrongly\(\) got an unexpected keyword argument 'sum'"):
        pay(1, sum=2)
    assert audit_events(type="call.decided") == []
