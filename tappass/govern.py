"""govern([...]): callables in, the same kinds out, each call governed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TypeVar

import tappass
from tappass.decorators import govern_callable
from tappass.enforcement.projection import Encoders
from tappass.errors import TapPassConfigError
from tappass.gates import Governing
from tappass.session.session import Options

T = TypeVar("T")


def govern(
    tools: Iterable[T],
    *,
    url: str | None = None,
    api_key: str | None = None,
    encoders: Encoders | None = None,
    raise_on_redaction: bool | None = None,
    respect_breakglass: bool | None = None,
    on_approval: str | None = None,
    approval_timeout_s: float | None = None,
) -> list[T]:
    """Govern a list of tools: what comes out is of the same kind, in the same order.

    Args:
        tools: functions, coroutine functions, generators, methods, partials, callable objects; tool objects of the
            frameworks that have a guard.
        url: the plane that decides, if not the active session's.
        api_key: the key for that url, and for no other.
        encoders: how to show values that have no JSON projection, by argument name or by type.
        raise_on_redaction: raise RedactionApplied instead of handing over a redacted value.
        respect_breakglass: go on under an emergency override instead of raising BreakGlassActive.
        on_approval: `wait` holds a call until people have decided; `raise`, the default, raises ApprovalRequired.
        approval_timeout_s: how long to wait, in seconds, before raising; None: until the approval expires.

    Raises:
        TapPassConfigError: a tool cannot be governed on every path by which it can be called; the message names it.
    """
    if not isinstance(tools, Iterable) or isinstance(tools, str):
        name = tools if isinstance(tools, str) else getattr(tools, "__name__", type(tools).__name__)
        raise TapPassConfigError(f"govern() takes a list of tools: govern([{name}])")
    options = Options(
        raise_on_redaction=raise_on_redaction,
        respect_breakglass=respect_breakglass,
        on_approval=on_approval,
        approval_timeout_s=approval_timeout_s,
    )
    governing = Governing(url=url, api_key=api_key, encoders=encoders, options=options)
    return [
        govern_callable(tool, None, url, api_key, encoders or {}, options)
        if (adapter := adapter_of(tool)) is None
        else importlib.import_module(adapter).govern_tool(tool, governing)
        for tool in tools
    ]


def adapter_of(tool: object) -> str | None:
    """Return the module of the adapter for a framework's tool object, None for what is no such object."""
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(tool).__mro__)
    return next((tappass._TOOL_ADAPTERS[name] for name in names if name in tappass._TOOL_ADAPTERS), None)
