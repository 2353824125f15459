"""@tool: one thin wrapper per kind of callable.

| what is decorated                    | what comes out                                            |
| ------------------------------------ | --------------------------------------------------------- |
| function, coroutine function         | a function of the same signature (`decorator.decorate`)   |
| generator, async generator function  | the same kind, by hand: `decorator` would lose it         |
| class method, static method          | the same, around the governed function                    |
| bound method                         | the same, in a proxy whose copies and pickles are governed |
| `functools.partial`                  | a partial of the governed function                        |
| object with `__call__` alone         | a transparent proxy (`wrapt.ObjectProxy`)                 |
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, TypeVar, overload

import decorator

from tappass import forking
from tappass.enforcement.drivers import ABegun, Begun, adrive, astreaming, drive, streaming
from tappass.enforcement.flow import enforce, enforce_stream
from tappass.enforcement.projection import Encoders
from tappass.enforcement.signature import CallSignature
from tappass.errors import TapPassConfigError
from tappass.placing import aplace, place
from tappass.session.session import Options
from tappass.toolspec import MARK, ToolSpec, claim, is_function
from tappass.wire.sessions import TIERS

F = TypeVar("F", bound=Callable[..., Any])


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *,
    name: str | None = None,
    url: str | None = None,
    api_key: str | None = None,
    encoders: Encoders | None = None,
    raise_on_redaction: bool | None = None,
    respect_breakglass: bool | None = None,
    on_approval: str | None = None,
    approval_timeout_s: float | None = None,
    min_tier: str = "",
) -> Callable[[F], F]: ...
def tool(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    url: str | None = None,
    api_key: str | None = None,
    encoders: Encoders | None = None,
    raise_on_redaction: bool | None = None,
    respect_breakglass: bool | None = None,
    on_approval: str | None = None,
    approval_timeout_s: float | None = None,
    min_tier: str = "",
) -> Any:
    """Govern a function: each call is decided before it runs and settled after.

    Kind, signature, hints and docstring are kept. What is governed already is returned as it is.

    Args:
        function: what to govern; left out when options are given.
        name: what policy calls it; its `__name__` by default.
        url: the plane that decides, if not the active session's; `api_key` is only ever sent there.
        api_key: the key for that plane.
        encoders: how to show values that have no JSON projection, by argument name or by type.
        raise_on_redaction: raise RedactionApplied instead of handing over a redacted value.
        respect_breakglass: go on under an emergency override instead of raising BreakGlassActive.
        on_approval: `wait` holds a call until people have decided; `raise`, the default, raises ApprovalRequired.
        approval_timeout_s: how long to wait, in seconds, before raising; None: until the approval expires.
        min_tier: the lowest trust tier that an agent needs to call it, whatever policy says: untrusted, limited,
            standard, trusted or privileged.

    Raises:
        TapPassConfigError: the object cannot be governed on every path by which it can be called, or a tier is unknown.
    """
    if isinstance(function, str):
        raise TapPassConfigError(f"@tool takes its options by name; write @tool(name={function!r})")

    def decorate(target: Any) -> Any:
        options = Options(
            raise_on_redaction=raise_on_redaction,
            respect_breakglass=respect_breakglass,
            on_approval=on_approval,
            approval_timeout_s=approval_timeout_s,
        )
        return govern_callable(target, name, url, api_key, encoders or {}, options, min_tier)

    return decorate if function is None else decorate(function)


def govern_callable(
    target: Any,
    name: str | None,
    url: str | None,
    api_key: str | None,
    encoders: Encoders,
    options: Options,
    min_tier: str = "",
) -> Any:
    """Return the governed twin of a callable, of the same kind."""

    def again(inner: Any) -> Any:
        return govern_callable(inner, name, url, api_key, encoders, options, min_tier)

    if min_tier and min_tier not in TIERS:
        raise TapPassConfigError(f"min_tier={min_tier!r} is no trust tier; use one of {', '.join(TIERS)}")
    if (known := known_spec(target)) is not None:
        _refuse_conflict(known, name, url, options, min_tier)
        return target
    if (rebuilt := _rebuilt(target, again)) is not None:
        return rebuilt
    _refuse_shape(target)
    spec = claim(
        ToolSpec(
            name or str(getattr(target, "__name__", type(target).__name__)),
            target,
            _signature(target),
            encoders=encoders,
            options=options,
            url=url,
            api_key=api_key,
            min_tier=min_tier,
        )
    )
    governed = _wrapper(spec)
    spec.cover(governed)
    return governed


def _rebuilt(target: Any, again: Callable[[Any], Any]) -> Any:
    """Return the same kind of thing around its governed function, None for what is no such thing."""
    if isinstance(target, staticmethod | classmethod):
        return type(target)(again(target.__func__))
    if isinstance(target, types.MethodType):
        with forking.unforked:
            from tappass.proxies import GovernedMethod

        function = again(target.__func__)
        return GovernedMethod(types.MethodType(function, target.__self__), getattr(function, MARK))
    if type(target) is functools.partial:
        return functools.partial(again(target.func), *target.args, **target.keywords)
    return None


def known_spec(target: Any) -> ToolSpec | None:
    """Return the spec that governs this callable, None if nothing does.

    Raises:
        TapPassConfigError: another decorator copied the mark of a governed function that it wraps.
    """
    spec = getattr(target, MARK, None)
    if not isinstance(spec, ToolSpec):
        return None
    if spec.covers(target.__func__ if isinstance(target, types.MethodType) else target):
        return spec
    raise TapPassConfigError(
        f"`{spec.name}` is governed already, below another decorator; use @tool once, as the outermost or innermost"
    )


def _refuse_conflict(spec: ToolSpec, name: str | None, url: str | None, options: Options, min_tier: str) -> None:
    wanted = {"name": (name, spec.name), "url": (url, spec.url), "min_tier": (min_tier or None, spec.min_tier)}
    wanted |= {
        option: (getattr(options, option), getattr(spec.options, option)) for option in Options.__struct_fields__
    }
    for option, (new, old) in wanted.items():
        if new is not None and new != old:
            raise TapPassConfigError(f"`{spec.name}` is governed already, with {option}={old!r}, not {new!r}")


def _refuse_shape(target: Any) -> None:
    """Refuse what could be called past its governed twin."""
    kind = type(target).__name__
    if inspect.isclass(target):
        raise TapPassConfigError(f"{target.__name__} is a class; decorate its methods, or an instance of it")
    if not callable(target):
        raise TapPassConfigError(f"a {kind} is not callable, so there is nothing to govern; see `tappass doctor`")
    if is_function(target):
        return
    paths = [n for n in dir(target) if not n.startswith("_") and callable(getattr(target, n, None))]
    if paths:
        raise TapPassConfigError(
            f"a {kind} can be called past the gate by {', '.join(paths[:5])}; decorate these methods with @tool, "
            f"or pass the bound method that is the tool"
        )


def _signature(target: Any) -> CallSignature:
    try:
        return CallSignature(target)
    except (TypeError, ValueError) as error:
        name = getattr(target, "__name__", type(target).__name__)
        raise TapPassConfigError(
            f"`{name}` has no signature that can be read, so policy could not name its arguments; "
            f"wrap it in a function that has one"
        ) from error


def _wrapper(spec: ToolSpec) -> Any:
    """Return the governed twin of one kind of callable, marked."""
    function = spec.function
    if not is_function(function):
        with forking.unforked:
            from tappass.proxies import GovernedCallable

        return GovernedCallable(function, spec, _driven(spec, type(function).__call__))
    driven = _driven(spec, function)
    if inspect.isgeneratorfunction(driven) or inspect.isasyncgenfunction(driven):
        wrapper: Any = functools.wraps(function)(driven)
    elif inspect.iscoroutinefunction(driven):

        async def acaller(_function: Any, /, *args: Any, **kwargs: Any) -> Any:
            return await driven(*args, **kwargs)

        wrapper = decorator.decorate(function, acaller, kwsyntax=True)
    else:

        def caller(_function: Any, /, *args: Any, **kwargs: Any) -> Any:
            return driven(*args, **kwargs)

        wrapper = decorator.decorate(function, caller, kwsyntax=True)
    setattr(wrapper, MARK, spec)
    return wrapper


def _driven(spec: ToolSpec, kind: Any) -> Callable[..., Any]:
    """Return what governs one call, of the same kind (coroutine function, generator function, …) as `kind`."""
    if inspect.isasyncgenfunction(kind):

        async def abegin(args: Any, kwargs: Any) -> ABegun:
            session = await aplace(spec)
            call = spec.call(session, args, kwargs)
            return enforce_stream(call), session.plane.aio, call

        return astreaming(abegin)
    if inspect.isgeneratorfunction(kind):

        def begin(args: Any, kwargs: Any) -> Begun:
            session = place(spec)
            call = spec.call(session, args, kwargs)
            return enforce_stream(call), session.plane.sync, call

        return streaming(begin)
    if inspect.iscoroutinefunction(kind):

        async def arun(*args: Any, **kwargs: Any) -> Any:
            session = await aplace(spec)
            call = spec.call(session, args, kwargs)
            return await adrive(enforce(call), session.plane.aio, call)

        return arun

    def run(*args: Any, **kwargs: Any) -> Any:
        session = place(spec)
        call = spec.call(session, args, kwargs)
        return drive(enforce(call), session.plane.sync, call)

    return run
