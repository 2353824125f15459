"""`govern([...])` for CrewAI's tool objects: the same kind of tool, decided on every path by which it runs."""

from __future__ import annotations

import functools
import inspect
from abc import ABCMeta
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from crewai.tools.base_tool import BaseTool, Tool
from crewai.tools.structured_tool import CrewStructuredTool
from crewai.utilities.string_utils import sanitize_tool_name

from tappass.errors import TapPassConfigError
from tappass.ext import Gate, Governing
from tappass_adapters.crewai.shapes import OURS, definition_of, governed

try:
    from crewai.tools.tool_failure import ToolFailure
except ImportError:  # pragma: no cover
    ToolFailure = None

# The gates that a call is inside of: `run` of a tool calls its `_run`.
_inside: ContextVar[frozenset[int]] = ContextVar("tappass_crewai_inside", default=frozenset())

_BY_FRAMEWORK = (BaseTool.run, BaseTool.arun, BaseTool._arun, Tool.run, Tool.arun)


def govern_tool(tool: Any, governing: Governing) -> Any:
    """Return a CrewAI tool of the same kind, each call of which is decided.

    Raises:
        TapPassConfigError: it cannot be governed on every path by which it runs.
    """
    if governed(tool):
        return tool
    name = sanitize_tool_name(tool.name)
    definition = definition_of(tool, name)
    assert definition is not None
    gate = governing.gate(definition)
    copy = tool.model_copy()
    if isinstance(tool, Tool | CrewStructuredTool):
        copy.func = _function(tool.func, gate)
    if not _by_function(tool):
        if not isinstance(tool, BaseTool):
            raise TapPassConfigError(f"`{name}` cannot be governed: {type(tool).__name__} runs in ways of its own")
        object.__setattr__(copy, "__class__", _kind(type(tool), gate))
    return copy


def _by_function(tool: Any) -> bool:
    """Tell whether all that runs a tool is its `func`."""
    kind: Any = type(tool)
    framework: Any
    ways: tuple[str, ...]
    if isinstance(tool, CrewStructuredTool):
        ways, framework = ("invoke", "ainvoke", "_run"), CrewStructuredTool
    elif isinstance(tool, Tool):
        ways, framework = ("run", "arun", "_run", "_arun"), Tool
    else:
        return False
    return all(getattr(kind, way) is getattr(framework, way) for way in ways)


def _kind(kind: Any, gate: Gate) -> Any:
    """Return a subclass that differs in nothing but what stands before its tools' work."""
    ways = [way for way in ("run", "arun", "_run", "_arun") if getattr(kind, way) not in _BY_FRAMEWORK]
    # Of its own name in CrewAI's registry of tools, so that the class it came from stays what it was there.
    named = {"__module__": kind.__module__, "__qualname__": f"{kind.__qualname__}[governed]", "__doc__": kind.__doc__}
    space = {**named, OURS: gate, **{way: _method(getattr(kind, way), gate) for way in ways}}
    # Past pydantic, which would read the fields of the class again, maybe without the names that they were written in.
    return ABCMeta.__new__(type(kind), kind.__name__, (kind,), space)


def _method(function: Callable[..., Any], gate: Gate) -> Any:
    signature = _readable(function, gate)

    def sync(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if id(gate) in _inside.get():
            return function(self, *args, **kwargs)
        given = _named(signature, (self, *args), kwargs, 1)
        return gate.run(_within(gate, functools.partial(function, self)), given, told_as_failure)

    async def async_(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if id(gate) in _inside.get():
            return await function(self, *args, **kwargs)
        given = _named(signature, (self, *args), kwargs, 1)
        return await gate.arun(_awithin(gate, functools.partial(function, self)), given, told_as_failure)

    return functools.wraps(function)(async_ if inspect.iscoroutinefunction(function) else sync)


def _function(function: Callable[..., Any], gate: Gate) -> Any:
    signature = _readable(function, gate, bound=False)

    def sync(*args: Any, **kwargs: Any) -> Any:
        if id(gate) in _inside.get():
            return function(*args, **kwargs)
        return gate.run(_within(gate, function), _named(signature, args, kwargs), told_as_failure)

    async def async_(*args: Any, **kwargs: Any) -> Any:
        if id(gate) in _inside.get():
            return await function(*args, **kwargs)
        return await gate.arun(_awithin(gate, function), _named(signature, args, kwargs), told_as_failure)

    wrapper: Any = functools.wraps(function)(async_ if inspect.iscoroutinefunction(function) else sync)
    setattr(wrapper, OURS, gate)
    return wrapper


def _readable(function: Callable[..., Any], gate: Gate, *, bound: bool = True) -> inspect.Signature:
    signature = inspect.signature(function)
    taken = list(signature.parameters.values())[1 if bound else 0 :]
    if any(parameter.kind is parameter.POSITIONAL_ONLY for parameter in taken):
        raise TapPassConfigError(f"`{gate.name}` cannot be governed: it takes arguments without names")
    return signature


def _named(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any], skip: int = 0
) -> dict[str, Any]:
    """Return a call's arguments by name, defaults filled, without the tool itself."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    named: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[skip:]:
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif kind is not inspect.Parameter.VAR_POSITIONAL:
            named[name] = value
        elif value:
            raise TapPassConfigError(f"a tool was not run: {len(value)} of its arguments have no name")
    return named


def _within(gate: Gate, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(**arguments: Any) -> Any:
        before = _inside.get()
        _inside.set(before | {id(gate)})
        try:
            result = function(**arguments)
        finally:
            _inside.set(before)
        if inspect.isawaitable(result):
            raise TapPassConfigError(f"`{gate.name}` cannot be governed: it is no coroutine function, but returns one")
        return result

    return run


def _awithin(gate: Gate, function: Callable[..., Any]) -> Callable[..., Any]:
    async def run(**arguments: Any) -> Any:
        before = _inside.get()
        _inside.set(before | {id(gate)})
        try:
            return await function(**arguments)
        finally:
            _inside.set(before)

    return run


def told_as_failure(text: str) -> Any:
    """Return what a tool returns instead of running: CrewAI never takes a failure for the task's answer."""
    return ToolFailure(message=text) if ToolFailure is not None else text
