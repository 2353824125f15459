"""Decisions for routes: an action by name, decided before the endpoint runs and settled after the response."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

import anyio

from tappass.errors import TapPassConfigError
from tappass.ext import Interception, Options, ToolDefinition, missing
from tappass_adapters.fastapi.arriving import arrived
from tappass_adapters.fastapi.exchange import KEY, run, settled

F = TypeVar("F", bound=Callable[..., Any])

# On a dependency, so that the application's OpenAPI document can tell of it.
ACTION = "__tappass_action__"
_CLOSE_S = 5


def governed_action(
    name: str,
    *,
    arguments: Callable[..., Any] | None = None,
    description: str = "",
    raise_on_redaction: bool | None = None,
    respect_breakglass: bool | None = None,
    on_approval: str | None = None,
    approval_timeout_s: float | None = None,
) -> Callable[..., AsyncIterator[dict[str, Any]]]:
    """Return a dependency that decides an action before the endpoint runs: `Depends(governed_action("export"))`.

    It yields the action's arguments. The action is settled when the response is through. What policy would have
    redacted in a route's arguments or inspected in its result, nobody here could replace: such a route is refused.

    Args:
        name: what policy calls the action.
        arguments: a dependency that returns them by name; by default the parameters of path and query,
            as the endpoint takes them where it declares them, else as text.
        description: what the action does, for people.
        raise_on_redaction: as in `tool`.
        respect_breakglass: as in `tool`.
        on_approval: as in `tool`.
        approval_timeout_s: as in `tool`.

    Raises:
        TapPassConfigError: FastAPI is not installed.
    """
    try:
        from fastapi import Depends
        from starlette.requests import HTTPConnection
    except ImportError as error:
        raise missing("fastapi", "governed_action()") from error
    options = Options(
        raise_on_redaction=raise_on_redaction,
        respect_breakglass=respect_breakglass,
        on_approval=on_approval,
        approval_timeout_s=approval_timeout_s,
    )

    dependency = _dependency(name, description, options, declares=arguments is not None)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("connection", kind, annotation=HTTPConnection)]
    if arguments is not None:
        parameters.append(inspect.Parameter("declared", kind, default=Depends(arguments)))
    # Said outright: FastAPI could not read annotations of what is imported only here.
    dependency.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    setattr(dependency, ACTION, name)
    return dependency


def _dependency(
    name: str, description: str, options: Options, *, declares: bool
) -> Callable[..., AsyncIterator[dict[str, Any]]]:
    async def action(connection: Any, declared: Any = None) -> AsyncIterator[dict[str, Any]]:
        told = _told(name, declared) if declares else arrived(name, connection)
        call = _call(name, told, description, options)
        await call.abefore()
        error: BaseException | None = None
        try:
            yield told
        except BaseException as raised:
            error = raised
            raise
        finally:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await settled(call, error)

    return action


def governed_endpoint(
    name: str,
    *,
    arguments: Callable[[Any], Any] | None = None,
    description: str = "",
    raise_on_redaction: bool | None = None,
    respect_breakglass: bool | None = None,
    on_approval: str | None = None,
    approval_timeout_s: float | None = None,
) -> Callable[[F], F]:
    """Decide an action before an endpoint of Starlette's runs: `@governed_endpoint("export")`.

    For functions and methods that take a request or a websocket, sync or async. Under `TapPassMiddleware` the action is
    settled when the response is through, else when the endpoint returns.

    Args:
        name: what policy calls the action.
        arguments: returns them by name from the request, sync or async; by default as in `governed_action`.
        description: what the action does, for people.
        raise_on_redaction: as in `tool`.
        respect_breakglass: as in `tool`.
        on_approval: as in `tool`.
        approval_timeout_s: as in `tool`.

    Raises:
        TapPassConfigError: Starlette is not installed, or the endpoint takes no request.
    """
    options = Options(
        raise_on_redaction=raise_on_redaction,
        respect_breakglass=respect_breakglass,
        on_approval=on_approval,
        approval_timeout_s=approval_timeout_s,
    )

    def decorate(endpoint: F) -> F:
        @functools.wraps(endpoint)
        async def governed(*args: Any, **kwargs: Any) -> Any:
            connection = _connection(name, (*args, *kwargs.values()))
            told = arrived(name, connection) if arguments is None else _told(name, await run(arguments, connection))
            call = _call(name, told, description, options)
            await call.abefore()
            exchange = connection.scope.get(KEY)
            if exchange is not None:
                exchange.later.append(call)
                return await run(endpoint, *args, **kwargs)
            try:
                result = await run(endpoint, *args, **kwargs)
            except BaseException as error:
                await settled(call, error)
                raise
            await settled(call, None)
            return result

        setattr(governed, ACTION, name)
        return governed  # type: ignore[return-value]

    return decorate


def _call(name: str, arguments: dict[str, Any], description: str, options: Options) -> Interception:
    definition = ToolDefinition(name=name, description=description)
    return Interception(name, arguments, definition=definition, options=options, fixed=True, unseen=True)


def _connection(name: str, given: tuple[Any, ...]) -> Any:
    try:
        from starlette.requests import HTTPConnection
    except ImportError as error:
        raise missing("fastapi", "governed_endpoint()") from error
    for value in given:
        if isinstance(value, HTTPConnection):
            return value
    raise TapPassConfigError(f"the endpoint of the action `{name}` takes no request, so policy could not see any")


def _told(name: str, declared: Any) -> dict[str, Any]:
    if not isinstance(declared, Mapping):
        raise TapPassConfigError(f"the arguments of the action `{name}` are a dict, not {type(declared).__name__}")
    return dict(declared)
