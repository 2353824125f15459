"""A unit of work around each call of a callable, whatever kind of callable it is."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import decorator

from tappass.errors import TapPassConfigError
from tappass.toolspec import MARK as TOOL_MARK
from tappass.toolspec import ToolSpec, is_function

if TYPE_CHECKING:
    from tappass.scopes import Unit

MARK = "__tappass_unit__"

_Stepping: TypeAlias = "tuple[Unit, Callable[[], AsyncIterator[Any]], Callable[[BaseException | None], Any]]"


def title(target: Any) -> str:
    """Return what a callable is called."""
    return getattr(target, "__name__", "") or type(target).__name__


def once(guard: str, asked: Mapping[str, Any], target: Any, wrap: Callable[[Any], Any]) -> Any:
    """Put a unit around a callable, unless the same guard with the same plane and options stands there already.

    Args:
        guard: what puts it there, as users write it.
        asked: its options; `url` says which plane.
        target: the callable.
        wrap: puts the unit around it.

    Raises:
        TapPassConfigError: that guard stands there already, with other options for the same plane.
    """
    plane = asked.get("url")
    rest = {**asked, "api_key": hash(asked.get("api_key"))}  # never the key itself
    holder = _holder(target)
    nothing: dict[str, Any] = {}
    known_guard, known_plane, known_rest, known_id = getattr(holder, MARK, ("", None, nothing, 0))
    if (known_guard, known_plane, known_id) == (guard, plane, id(holder)):
        if other := sorted(name for name in rest | known_rest if rest.get(name) != known_rest.get(name)):
            raise TapPassConfigError(f"`{title(target)}` has a session already, with other options: {other}")
        return target
    wrapper = wrap(target)
    # The id tells this wrapper from one that merely copied its attributes.
    with contextlib.suppress(AttributeError):
        setattr(_holder(wrapper), MARK, (guard, plane, rest, id(_holder(wrapper))))
    return wrapper


def _holder(target: Any) -> Any:
    """Return what carries a callable's mark: a bound method has none of its own."""
    return target.__func__ if isinstance(target, types.MethodType) else target


def around(function: Any, again: Callable[[], Unit]) -> Any:
    """Wrap one kind of callable in units of work."""
    if isinstance(function, staticmethod | classmethod):
        return type(function)(around(function.__func__, again))
    if isinstance(function, types.MethodType):
        return types.MethodType(around(function.__func__, again), function.__self__)
    if inspect.isclass(function) or not callable(function):
        raise TapPassConfigError(f"a session cannot stand around {function!r:.80}; decorate a function or a method")
    wrapper: Any
    if inspect.isasyncgenfunction(function):
        wrapper = functools.wraps(function)(_around_astream(function, again))
    elif inspect.isgeneratorfunction(function):
        wrapper = functools.wraps(function)(_around_stream(function, again))
    elif is_function(function):
        wrapper = decorator.decorate(function, _caller(function, again), kwsyntax=True)
    else:
        from tappass.proxies import SessionCallable

        return SessionCallable(function, again)
    if isinstance(spec := getattr(wrapper, TOOL_MARK, None), ToolSpec):
        spec.cover(wrapper)
    return wrapper


def _caller(function: Any, again: Callable[[], Unit]) -> Any:
    if inspect.iscoroutinefunction(function):

        async def acaller(inner: Any, /, *args: Any, **kwargs: Any) -> Any:
            unit = again()
            await unit.aforesee(args, kwargs)
            async with unit:
                return unit.deliver(await unit.call(inner, args, kwargs))

        return acaller

    def caller(inner: Any, /, *args: Any, **kwargs: Any) -> Any:
        unit = again()
        unit.foresee(args, kwargs)
        with unit:
            return unit.deliver(unit.call(inner, args, kwargs))

    return caller


def _around_stream(function: Any, again: Callable[[], Unit]) -> Any:
    def stream(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        unit = again()
        unit.foresee(args, kwargs)
        unit.open()
        return (yield from steps(unit, lambda: unit.call(function, args, kwargs), unit.close))

    return stream


def _around_astream(function: Any, again: Callable[[], Unit]) -> Any:
    async def begun(*args: Any, **kwargs: Any) -> _Stepping:
        unit = again()
        await unit.aforesee(args, kwargs)
        await unit.aopen()
        return unit, lambda: unit.call(function, args, kwargs), unit.aclose

    return _astepping(begun)


def steps(
    unit: Unit, begin: Callable[[], Iterator[Any]], close: Callable[[BaseException | None], Any]
) -> Generator[Any, Any, Any]:
    """Hand on what an iterator yields, its code inside the unit and the caller's outside; close at its end."""
    source: Any = None
    try:
        step: Callable[[], Any] = lambda: next(source)  # noqa: E731
        while True:
            # Never active across a yield: the caller's code is not in this session.
            with unit.active():
                try:
                    source = begin() if source is None else source
                    item = step()
                except StopIteration as stop:
                    value = stop.value
                    break
            try:
                step = _sending(source, (yield item))
            except GeneratorExit:
                raise
            except BaseException as error:
                step = _throwing(source, error)
    except BaseException as error:
        _closed(source)
        close(error)
        raise
    close(None)
    return value


def asteps(
    unit: Unit, begin: Callable[[], AsyncIterator[Any]], close: Callable[[BaseException | None], Any]
) -> AsyncGenerator[Any, Any]:
    """Hand on what an async iterator yields. The async twin of `steps`."""

    async def begun() -> _Stepping:
        return unit, begin, close

    return _astepping(begun)()


def _astepping(begun: Callable[..., Awaitable[_Stepping]]) -> Callable[..., AsyncGenerator[Any, Any]]:
    """Return an async generator function that steps through what `begun` names, once the first item is asked for."""

    async def stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        unit, begin, close = await begun(*args, **kwargs)
        source: Any = None
        try:
            step: Callable[[], Any] = lambda: anext(source)  # noqa: E731
            while True:
                with unit.active():
                    try:
                        source = begin() if source is None else source
                        item = await step()
                    except StopAsyncIteration:
                        break
                try:
                    step = _sending(source, (yield item), anext, "asend")
                except GeneratorExit:
                    raise
                except BaseException as error:
                    step = _throwing(source, error, "athrow")
        except BaseException as error:
            if (aclose := getattr(source, "aclose", None)) is not None:
                await aclose()
            await close(error)
            raise
        await close(None)

    return stream


def _sending(source: Any, value: Any, pull: Callable[[Any], Any] = next, send: str = "send") -> Callable[[], Any]:
    if value is None or not hasattr(source, send):
        return functools.partial(pull, source)
    return functools.partial(getattr(source, send), value)


def _throwing(source: Any, error: BaseException, throw: str = "throw") -> Callable[[], Any]:
    if not hasattr(source, throw):
        raise error
    return functools.partial(getattr(source, throw), error)


def _closed(source: Any) -> None:
    if (close := getattr(source, "close", None)) is not None:
        close()
