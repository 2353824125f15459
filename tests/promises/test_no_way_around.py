"""A blocked tool never runs, whatever it is and however it is reached."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import inspect
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tappass import PolicyBlockError, TapPassConfigError, carry, govern, governed, tappass_session, tool
from tappass.proxies import GovernedMethod

BLOCK_ALL = """
    version: 1
    rules:
      - {id: none, tool: 'never*', effect: block}
"""

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _blocked(tappass_plane):
    ran.clear()
    tappass_plane.policy(BLOCK_ALL)
    yield
    assert ran == []


@tool(name="never_function")
def function(x: int) -> int:
    ran.append(x)
    return x


@tool(name="never_coroutine")
async def coroutine(x: int) -> int:
    ran.append(x)
    return x


@tool(name="never_generator")
def generator(x: int):
    ran.append(x)
    yield x


@tool(name="never_agenerator")
async def agenerator(x: int):
    ran.append(x)
    yield x


@tool(name="outer")
def outer(x: int) -> int:
    return function(x)


class Shop:
    def __init__(self, name: str = "one") -> None:
        self.name = name

    def never_sell(self, x: int) -> int:
        ran.append(x)
        return x

    @tool(name="never_method")
    def method(self, x: int) -> int:
        ran.append(x)
        return x

    @tool(name="never_class_method")
    @classmethod
    def klass(cls, x: int) -> int:
        ran.append(x)
        return x

    @staticmethod
    @tool(name="never_static_method")
    def static(x: int) -> int:
        ran.append(x)
        return x


class NeverCallable:
    def __call__(self, x: int) -> int:
        ran.append(x)
        return x


@dataclasses.dataclass
class NeverUnhashable:
    """Equal by value, so without a hash."""

    n: int = 0

    def __call__(self, x: int) -> int:
        ran.append(x)
        return x


def never_plain(x: int) -> int:
    ran.append(x)
    return x


WAYS = {
    "function": lambda: function(1),
    "inside another tool": lambda: outer(1),
    "by keyword": lambda: function(x=1),
    "__call__ of a function": lambda: function.__call__(1),
    "__get__ of a function": lambda: function.__get__(1)(),
    "coroutine": lambda: asyncio.run(coroutine(1)),
    "generator": lambda: list(generator(1)),
    "generator by send": lambda: generator(1).send(None),
    "method": lambda: Shop().method(1),
    "method through its class": lambda: Shop.method(Shop(), 1),
    "method through __func__": lambda: Shop().method.__func__(Shop(), 1),
    "class method": lambda: Shop.klass(1),
    "class method through __func__": lambda: Shop.klass.__func__(Shop, 1),
    "class method through the class's dict": lambda: Shop.__dict__["klass"].__func__(Shop, 1),
    "static method": lambda: Shop.static(1),
    "static method through the class's dict": lambda: Shop.__dict__["static"].__func__(1),
    "bound method": lambda: govern([Shop().never_sell])[0](1),
    "bound method through __func__": lambda: govern([Shop().never_sell])[0].__func__(Shop(), 1),
    "copy of a bound method": lambda: copy.copy(govern([Shop().never_sell])[0])(1),
    "deep copy of a bound method": lambda: copy.deepcopy(govern([Shop().never_sell])[0])(1),
    "pickle of a bound method": lambda: pickle.loads(pickle.dumps(govern([Shop().never_sell])[0]))(1),
    "copy of a function": lambda: copy.deepcopy(copy.copy(function))(1),
    "pickle of a function": lambda: pickle.loads(pickle.dumps(function))(1),
    "pickle of a method": lambda: pickle.loads(pickle.dumps(Shop().method))(1),
    "partial": lambda: govern([functools.partial(never_plain, 1)])[0](),
    "partial of a governed function": lambda: functools.partial(function, 1)(),
    "partial through func": lambda: govern([functools.partial(never_plain, 1)])[0].func(1),
    "copy of a partial": lambda: copy.copy(govern([functools.partial(never_plain, 1)])[0])(),
    "deep copy of a partial": lambda: copy.deepcopy(govern([functools.partial(never_plain, 1)])[0])(),
    "callable object": lambda: tool(name="never_object")(NeverCallable())(1),
    "__call__ of a callable object": lambda: tool(name="never_object")(NeverCallable()).__call__(1),
    "copy of a callable object": lambda: copy.copy(tool(name="never_object")(NeverCallable()))(1),
    "deep copy of a callable object": lambda: copy.deepcopy(tool(name="never_object")(NeverCallable()))(1),
    "pickle of a callable object": lambda: pickle.loads(pickle.dumps(tool(name="never_object")(NeverCallable())))(1),
    "unhashable callable object": lambda: tool(name="never_object")(NeverUnhashable())(1),
    "in a session around it": lambda: governed(function)(1),
    "in a carried function": lambda: carry(function)(1),
    "through map": lambda: list(map(function, [1])),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("inside", [False, True], ids=["outside a session", "in a session"])
def test_a_blocked_tool_never_runs_whichever_way_it_is_reached(way, inside):
    if not inside:
        with pytest.raises(PolicyBlockError):
            WAYS[way]()
        return
    with tappass_session(), pytest.raises(PolicyBlockError):
        WAYS[way]()


@pytest.mark.parametrize("kept", [function, carry(function)], ids=["bare", "carried"])
def test_a_blocked_tool_never_runs_in_a_thread(kept):
    raised = []

    def work() -> None:
        try:
            kept(1)
        except PolicyBlockError as error:
            raised.append(error)

    with tappass_session():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        with ThreadPoolExecutor(1) as pool, pytest.raises(PolicyBlockError):
            pool.submit(kept, 1).result()
    assert len(raised) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_blocked_tool_never_runs_in_a_task_or_an_anyio_thread(backend):
    async def main() -> None:
        refused = []

        async def work(call: Any) -> None:
            try:
                await call()
            except PolicyBlockError as error:
                refused.append(error)

        async with tappass_session(), anyio.create_task_group() as tasks:
            tasks.start_soon(work, functools.partial(coroutine, 1))
            tasks.start_soon(work, lambda: anyio.to_thread.run_sync(function, 1))
            tasks.start_soon(work, lambda: anext(agenerator(1)))
            tasks.start_soon(work, lambda: agenerator(1).asend(None))
        assert len(refused) == 4

    anyio.run(main, backend=backend)


def test_a_blocked_tool_never_runs_under_gather():
    async def main() -> None:
        async with tappass_session():
            found = await asyncio.gather(*(coroutine(i) for i in range(20)), return_exceptions=True)
        assert [type(each) for each in found] == [PolicyBlockError] * 20

    asyncio.run(main())


@pytest.mark.parametrize("call", [function, outer], ids=["tool", "tool in a tool"])
def test_a_blocked_tool_never_runs_under_a_loop_that_swallows_and_retries_outside_a_session(call):
    for _ in range(5):
        with pytest.raises(PolicyBlockError):
            call(1)


def test_a_governed_bound_method_is_still_a_method():
    shop = Shop("two")
    sell = govern([shop.never_sell])[0]
    assert isinstance(sell, GovernedMethod)
    assert inspect.ismethod(sell)
    assert sell.__self__ is shop
    assert sell.__name__ == "never_sell"
    assert str(inspect.signature(sell)) == "(x: 'int') -> 'int'"
    assert govern([sell]) == [sell]
    assert pickle.loads(pickle.dumps(sell)).__self__.name == copy.deepcopy(sell).__self__.name == "two"
    with pytest.raises(PolicyBlockError):
        pickle.loads(pickle.dumps(copy.copy(pickle.loads(pickle.dumps(sell)))))(1)


def test_a_method_that_only_copied_the_mark_does_not_pass_for_governed():
    class Impostor:
        @functools.wraps(function)
        def run(self, x: int) -> None:
            ran.append(x)

    with pytest.raises(TapPassConfigError, match="below another decorator"):
        govern([Impostor().run])


def test_equal_callable_objects_are_told_apart():
    first, second = NeverUnhashable(), NeverUnhashable()
    one, two = tool(name="never_first")(first), tool(name="never_second")(second)
    assert govern([one, two]) == [one, two]
    for each in (one, two):
        with pytest.raises(PolicyBlockError):
            each(1)


@pytest.mark.parametrize("builtin", [len, [].append, str.upper], ids=["function", "bound method", "descriptor"])
def test_what_is_built_in_is_governed_too(builtin, tappass_plane, audit_events):
    governed_twin = govern([builtin])[0]
    governed_twin("a")
    assert [e.name for e in audit_events(type="call.decided")] == [builtin.__name__]


def test_an_argument_may_have_any_name_that_python_allows():
    @governed
    @tool(name="named")
    def named(*, self: int, inner: int, function: int, _function: int, args: int, kwargs: int, spec: int) -> int:
        return self + inner + function + _function + args + kwargs + spec

    assert named(self=1, inner=1, function=1, _function=1, args=1, kwargs=1, spec=1) == 7

    class Odd:
        def __call__(this, self: int) -> int:  # noqa: N805
            return self

    assert tool(name="odd")(Odd())(self=3) == 3


def test_a_pickle_holds_no_key():
    for decorate in (
        lambda it: tool(name="keyed", url="sqlite:///x.db", api_key="tp_planted_key")(it),
        lambda it: governed(url="sqlite:///x.db", api_key="tp_planted_key")(it),
    ):
        assert b"tp_planted_key" not in pickle.dumps(decorate(NeverCallable()))
    kept = tool(name="keyed_method", url="sqlite:///x.db", api_key="tp_planted_key")(Shop().never_sell)
    assert b"tp_planted_key" not in pickle.dumps(kept)


def test_two_sessions_around_one_function_are_refused_without_telling_the_key():
    inner = governed(name="a", api_key="tp_planted_key")(lambda: None)
    with pytest.raises(TapPassConfigError, match=r"other options: \['api_key', 'name'\]") as caught:
        governed(name="b", api_key="tp_other_key")(inner)
    assert "tp_" not in str(caught.value)
