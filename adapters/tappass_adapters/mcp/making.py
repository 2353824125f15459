"""Functions that make guarded connections where others make bare ones."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tappass.errors import TapPassConfigError
from tappass.ext import UnitOfWork


class Closing:
    """Closes a unit that was opened without being entered."""

    def __init__(self, unit: UnitOfWork) -> None:
        self._unit = unit

    async def __aenter__(self) -> None:
        """Nothing: it is open."""

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        await self._unit.aclose(error)


def around(guard: Callable[[Any], Any], function: Any) -> Any:
    """Return a function of the same kind that makes guarded connections.

    Raises:
        TapPassConfigError: it is no function.
    """
    if not callable(function) or inspect.isclass(function):
        raise TapPassConfigError(f"guard_mcp_client() decorates a function that makes a client, not {function!r:.80}")
    if inspect.isasyncgenfunction(function):
        return functools.wraps(function)(_generating(guard, function))
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def later(*args: Any, **kwargs: Any) -> Any:
            return guard(await function(*args, **kwargs))

        return later

    @functools.wraps(function)
    def connection(*args: Any, **kwargs: Any) -> Any:
        return guard(function(*args, **kwargs))

    return connection


def _generating(guard: Callable[[Any], Any], function: Any) -> Any:
    async def connections(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        made = guard(asynccontextmanager(lambda: function(*args, **kwargs))())
        # The session is not the active one: the caller's code runs between here and the end.
        client = await made.aopen()
        try:
            yield client
        except BaseException as error:
            await made.aclose(type(error), error, error.__traceback__)
            raise
        await made.aclose()

    return connections
