"""The transparent proxies around objects that are called, and around bound methods."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import wrapt

from tappass.around import around
from tappass.toolspec import ToolSpec

if TYPE_CHECKING:
    from tappass.scopes import Unit


class GovernedCallable(wrapt.ObjectProxy[Any]):
    """An object whose `__call__` is governed; everything else about it is as it was.

    Copies and pickles are governed too.
    """

    def __init__(self, wrapped: Any, spec: ToolSpec, driven: Callable[..., Any]) -> None:
        super().__init__(wrapped)
        self._self_spec = spec
        self._self_driven = driven

    @property
    def __tappass__(self) -> ToolSpec:
        """The mark of what is governed."""
        return self._self_spec

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the object, governed."""
        return self._self_driven(*args, **kwargs)

    def __copy__(self) -> Any:
        return govern_again(copy.copy(self.__wrapped__), *_options(self._self_spec))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return govern_again(copy.deepcopy(self.__wrapped__, memo), *_options(self._self_spec))

    def __reduce__(self) -> tuple[Any, ...]:
        return govern_again, (self.__wrapped__, *_options(self._self_spec))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()


class GovernedMethod(wrapt.ObjectProxy[Any]):
    """A bound method around a governed function; copies and pickles are governed too.

    Python copies and pickles a bound method by its name on its object, where the ungoverned one still is.
    """

    def __init__(self, wrapped: Any, spec: ToolSpec) -> None:
        super().__init__(wrapped)
        self._self_spec = spec

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method, whose function is governed."""
        return self.__wrapped__(*args, **kwargs)

    def __copy__(self) -> GovernedMethod:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> GovernedMethod:
        method = self.__wrapped__
        twin = types.MethodType(method.__func__, copy.deepcopy(method.__self__, memo))
        return GovernedMethod(twin, self._self_spec)

    def __reduce__(self) -> tuple[Any, ...]:
        method = self.__wrapped__
        return method_again, (method.__self__, method.__func__.__name__, *_options(self._self_spec))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()


class SessionCallable(wrapt.ObjectProxy[Any]):
    """An object with a session around each of its calls; copies and pickles are as the original."""

    def __init__(self, wrapped: Any, again: Callable[[], Unit]) -> None:
        super().__init__(wrapped)
        self._self_again = again
        self._self_call = around(type(wrapped).__call__, again)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the object in a session of its own."""
        return self._self_call(self.__wrapped__, *args, **kwargs)

    def __copy__(self) -> SessionCallable:
        return SessionCallable(copy.copy(self.__wrapped__), self._self_again)

    def __deepcopy__(self, memo: dict[int, Any]) -> SessionCallable:
        return SessionCallable(copy.deepcopy(self.__wrapped__, memo), self._self_again)

    def __reduce__(self) -> tuple[Any, ...]:
        return SessionCallable, (self.__wrapped__, self._self_again)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()


def _options(spec: ToolSpec) -> tuple[Any, ...]:
    # Not the key: a pickle may go anywhere, a key only to its server.
    return spec.name, spec.url, spec.encoders, spec.options, spec.min_tier


def govern_again(wrapped: Any, name: str, url: str | None, encoders: Any, options: Any, min_tier: str = "") -> Any:
    """Govern a copy as its original was; the key comes from the environment of the process it runs in."""
    from tappass.decorators import govern_callable

    return govern_callable(wrapped, name, url, None, encoders, options, min_tier)


def method_again(receiver: Any, method: str, *options: Any) -> Any:
    """Govern the bound method of a copy as its original's was."""
    return govern_again(getattr(receiver, method), *options)
