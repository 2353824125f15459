"""What a loop around the client does, as steps: written once, carried out by sync and async clients alike."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from tappass.ext import Interception


@dataclass(frozen=True)
class Before:
    """Decide a call; answers the arguments that it may be made with."""

    call: Interception


@dataclass(frozen=True)
class After:
    """Settle a call; answers what may be seen of its result."""

    call: Interception
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True)
class Send:
    """Send a request; answers what came back."""

    request: dict[str, Any]


@dataclass(frozen=True)
class Do:
    """Call a method of the client; answers what it returns."""

    method: Any
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Pull:
    """Take the next event of a stream; answers None at its end."""

    stream: Any


@dataclass(frozen=True)
class Emit:
    """Hand an event to the caller."""

    event: Any


Steps: TypeAlias = Generator[Any, Any, Any]


def drive(steps: Steps, send: Any) -> Any:
    """Carry out the steps of a turn."""
    value: Any = None
    error: BaseException | None = None
    try:
        while True:
            step = steps.throw(error) if error is not None else steps.send(value)
            error = None
            try:
                value = _done(step, send)
            except BaseException as raised:
                error = raised
    except StopIteration as stop:
        return stop.value


def _done(step: Any, send: Any) -> Any:
    if isinstance(step, Before):
        return step.call.before()
    if isinstance(step, After):
        return step.call.after(step.result, step.error)
    if isinstance(step, Pull):
        return next(step.stream, None)
    if isinstance(step, Do):
        return _unwarned(step.method)(**step.arguments)
    return send(**step.request)


def _unwarned(method: Any) -> Any:
    """Return a method of the client without its warning that it is deprecated: it is we who call it here."""
    if hasattr(method, "__deprecated__") and hasattr(method, "__wrapped__"):
        return functools.partial(method.__wrapped__, method.__self__)
    return method


async def adrive(steps: Steps, send: Any) -> Any:
    """Carry out the steps of a turn. The async twin of `drive`."""
    value: Any = None
    error: BaseException | None = None
    try:
        while True:
            step = steps.throw(error) if error is not None else steps.send(value)
            error = None
            try:
                value = await _adone(step, send)
            except BaseException as raised:
                error = raised
    except StopIteration as stop:
        return stop.value


async def _adone(step: Any, send: Any) -> Any:
    if isinstance(step, Before):
        return await step.call.abefore()
    if isinstance(step, After):
        return await step.call.aafter(step.result, step.error)
    if isinstance(step, Pull):
        return await anext(step.stream, None)
    if isinstance(step, Do):
        return await _unwarned(step.method)(**step.arguments)
    return await send(**step.request)


def events(steps: Steps, send: Any, now: list[Any]) -> Iterator[Any]:
    """Carry out the steps of a stream; yield its events. `now` holds the stream that is being read."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = steps.throw(error) if error is not None else steps.send(value)
        except StopIteration:
            return
        value = error = None
        if isinstance(step, Emit):
            yield step.event
            continue
        try:
            value = _done(step, send)
        except BaseException as raised:
            error = raised
        if isinstance(step, Send) and error is None:
            now[0].close()
            now[0] = value


async def aevents(steps: Steps, send: Any, now: list[Any]) -> Any:
    """Carry out the steps of a stream. The async twin of `events`."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = steps.throw(error) if error is not None else steps.send(value)
        except StopIteration:
            return
        value = error = None
        if isinstance(step, Emit):
            yield step.event
            continue
        try:
            value = await _adone(step, send)
        except BaseException as raised:
            error = raised
        if isinstance(step, Send) and error is None:
            await now[0].close()
            now[0] = value
