"""The two drivers: they carry out a flow's effects, sync and async, and hold no rule of their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, TypeAlias

from tappass.enforcement.action import Call
from tappass.enforcement.effects import Decide, Effect, Emit, End, Flow, OpenScanner, Pull, Run, Settle, Wait, running
from tappass.errors import TapPassConfigError
from tappass.wire.endings import ABANDONED

if TYPE_CHECKING:
    from tappass.enforcement.port import AsyncControlPlane, ControlPlane

CLOSE_TIMEOUT_S = 5

Begun: TypeAlias = "tuple[Flow[Any], ControlPlane, Call]"
ABegun: TypeAlias = "tuple[Flow[Any], AsyncControlPlane, Call]"


class _Stopped(Exception):
    pass


def drive(flow: Flow[Any], plane: ControlPlane, call: Call) -> Any:
    """Run a flow to its end on the caller's thread."""
    try:
        effect = next(flow)
        while True:
            try:
                result = perform(effect, plane)
            except StopIteration as error:
                effect = flow.throw(_Stopped(error))
            except BaseException as error:
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as stop:
        return stop.value
    except _Stopped as stopped:
        raise stopped.args[0] from None
    except GeneratorExit:
        plane.abandon(call.ending(ABANDONED))
        raise


def perform(effect: Effect[Any], plane: ControlPlane) -> Any:
    """Carry out one effect on the caller's thread."""
    match effect:
        case Run():
            outer = running.get()
            running.set(effect.task_id)
            try:
                result = effect.call(*effect.args, **effect.kwargs)
            finally:
                running.set(outer)
            if hasattr(type(result), "__await__"):
                _refuse_awaitable(result)
            return result
        case Decide():
            return plane.decide(effect.request)
        case Settle():
            return plane.settle(effect.ending)
        case OpenScanner():
            return plane.scanner(effect.scan, effect.session_id)
        case Pull():
            return _pull(effect)
        case Wait():
            return plane.wait(effect.token, effect.timeout_s)
    raise TypeError(f"no driver carries out {type(effect).__name__}")


def _refuse_awaitable(result: Any) -> None:
    # What an await would start later is past the settling of this call: nobody would have seen its result.
    if (close := getattr(result, "close", None)) is not None:
        close()
    raise TapPassConfigError(
        "a governed function that is not `async def` returned an awaitable, whose result could not be inspected; "
        "it was not awaited; govern the coroutine function itself"
    )


def _pull(effect: Pull) -> Any:
    source = effect.source
    try:
        if effect.error is not None:
            if not hasattr(source, "throw"):
                raise effect.error
            return source.throw(effect.error)
        return next(source) if effect.sent is None else source.send(effect.sent)
    except StopIteration as stop:
        return End(stop.value)


async def adrive(flow: Flow[Any], plane: AsyncControlPlane, call: Call) -> Any:
    """Run a flow to its end in the caller's task."""
    try:
        effect = next(flow)
        while True:
            try:
                result = await aperform(effect, plane)
            except BaseException as error:
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as stop:
        return stop.value
    except GeneratorExit:
        plane.abandon(call.ending(ABANDONED))
        raise


async def aperform(effect: Effect[Any], plane: AsyncControlPlane) -> Any:
    """Carry out one effect in the caller's task."""
    match effect:
        case Run():
            outer = running.get()
            running.set(effect.task_id)
            try:
                result = effect.call(*effect.args, **effect.kwargs)
                return await result if hasattr(type(result), "__await__") else result
            finally:
                running.set(outer)
        case Decide():
            return await plane.decide(effect.request)
        case Settle():
            return await plane.settle(effect.ending)
        case OpenScanner():
            return plane.scanner(effect.scan, effect.session_id)
        case Pull():
            return await _apull(effect)
        case Wait():
            return await plane.wait(effect.token, effect.timeout_s)
    raise TypeError(f"no driver carries out {type(effect).__name__}")


async def _apull(effect: Pull) -> Any:
    source = effect.source
    try:
        if effect.error is not None:
            if not hasattr(source, "athrow"):
                raise effect.error
            return await source.athrow(effect.error)
        return await (anext(source) if effect.sent is None else source.asend(effect.sent))
    except StopAsyncIteration:
        return End()


class _Unsettled:
    """A stream's open record: settles as abandoned if the stream is dropped, by whatever means."""

    __slots__ = ("_call", "_plane")

    def __init__(self, call: Call, plane: ControlPlane | AsyncControlPlane) -> None:
        self._call: Call | None = call
        self._plane = plane

    def settled(self) -> None:
        self._call = None

    def __del__(self) -> None:
        # May run inside the garbage collector, with any lock held: `abandon` only puts on a queue.
        if (call := self._call) is not None:
            self._plane.abandon(call.ending(ABANDONED))


def streaming(begin: Callable[..., Begun]) -> Callable[..., Generator[Any, Any, Any]]:
    """Return a generator function that drives the flow `begin` starts, handing its items to the caller.

    Nothing begins before the first item is asked for, as with any generator.
    """

    def stream(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        flow, plane, call = begin(args, kwargs)
        record = _Unsettled(call, plane)
        source: Any = None
        try:
            effect = next(flow)
            while True:
                try:
                    if type(effect) is Emit:
                        result = yield effect.item
                    else:
                        result = perform(effect, plane)
                        source = result if type(effect) is Run else source
                except BaseException as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as stop:
            record.settled()
            return stop.value
        except GeneratorExit:
            raise  # `record` goes with this frame, and settles as abandoned
        except BaseException:
            record.settled()
            raise
        finally:
            if (close := getattr(source, "close", None)) is not None:
                close()

    return stream


def astreaming(begin: Callable[..., Awaitable[ABegun]]) -> Callable[..., AsyncGenerator[Any, Any]]:
    """Return an async generator function that drives the flow `begin` starts, in the caller's task."""

    async def stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        flow, plane, call = await begin(args, kwargs)
        record = _Unsettled(call, plane)
        source: Any = None
        try:
            effect = next(flow)
            while True:
                try:
                    if type(effect) is Emit:
                        result = yield effect.item
                    else:
                        result = await aperform(effect, plane)
                        source = result if type(effect) is Run else source
                except BaseException as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration:
            record.settled()
        except GeneratorExit:
            raise  # `record` goes with this frame, and settles as abandoned
        except BaseException:
            record.settled()
            raise
        finally:
            await _aclose(source)

    return stream


async def _aclose(source: Any) -> None:
    if (aclose := getattr(source, "aclose", None)) is not None:
        import anyio

        with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await aclose()
