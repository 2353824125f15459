"""Arguments by name: what a call's positional and keyword arguments mean to the function that gets them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_PLAIN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_JSON = (str, int, float, bool, dict, list, tuple, type(None))


class CallSignature:
    """A function's signature, made ready to bind many calls.

    `self` and `cls` are left out, defaults are filled in, `*args` and `**kwargs` stand nested under their own names.
    `names` are the arguments policy may read; `is_open` says that there are more, by `**kwargs`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.full = inspect.signature(function)
        parameters = list(self.full.parameters.values())
        self._receiver = parameters[0].name if parameters and _is_method(function, parameters[0].name) else ""
        self.names = tuple(p.name for p in parameters if p.name != self._receiver)
        self.is_open = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._all = frozenset(p.name for p in parameters)
        self._positional = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
        self._defaults = tuple((p.name, p.default) for p in parameters if p.default is not p.empty)
        self._simple = all(p.kind in _PLAIN for p in parameters)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return every argument by name.

        Raises:
            TypeError: the arguments do not fit, as Python itself would say.
        """
        if self._simple and len(args) <= len(self._positional):
            bound = dict(zip(self._positional, args, strict=False))
            if not kwargs or bound.keys().isdisjoint(kwargs):
                bound.update(kwargs)
                for name, default in self._defaults:
                    bound.setdefault(name, default)
                if bound.keys() == self._all:
                    return self._without_receiver(bound)
        exact = self.full.bind(*args, **kwargs)
        exact.apply_defaults()
        return self._without_receiver(exact.arguments)

    def _without_receiver(self, bound: dict[str, Any]) -> dict[str, Any]:
        # A "self" that is plain data is an argument after all: a static method may name one so.
        if self._receiver and type(bound[self._receiver]) not in _JSON:
            del bound[self._receiver]
        return bound

    def rebind(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], changed: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword arguments again, with some replaced by name."""
        exact = self.full.bind(*args, **kwargs)
        exact.apply_defaults()
        exact.arguments.update(changed)
        return exact.args, exact.kwargs


def _is_method(function: Callable[..., Any], first: str) -> bool:
    """Tell whether a function was written in a class body with a receiver first."""
    scope = getattr(function, "__qualname__", "").rpartition(".")[0]
    return first in ("self", "cls") and bool(scope) and not scope.endswith("<locals>")
