"""LangChain's tool objects, governed: `invoke`, `run`, `func` and their async twins all lead through one gate."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool, Tool

from tappass import TapPassConfigError
from tappass.ext import MARK, Gate, Governing, ToolDefinition, by_name, current_guard, source_digest

TAG = "tappass"
"""What the callbacks of a guard know a governed tool by: it decides by itself."""

Around = Callable[[Callable[[], Any]], Any]


def govern_tool(tool: BaseTool, governing: Governing, within: Any = None) -> BaseTool:
    """Return a governed copy of a tool: same type, same schema; the original is left as it is.

    Args:
        tool: any of LangChain's tools.
        governing: how.
        within: the guard whose run it belongs to, where it does.

    Raises:
        TapPassConfigError: it cannot be governed on every path by which it can be called.
    """
    if isinstance(getattr(tool, MARK, None), Gate):
        return tool
    definition = definition_of(tool)
    gate = governing.gate(definition)
    copy = tool.model_copy(update={"tags": [*(tool.tags or ()), TAG]})
    hidden = injected(tool, definition)
    _refuse_more_ways(tool)
    if isinstance(tool, StructuredTool | Tool) and not _own(tool, "_run", "_arun"):
        for name, asynchronous in (("func", False), ("coroutine", True)):
            if (function := getattr(tool, name)) is not None:
                setattr(copy, name, _around(function, gate, hidden, tool, within, asynchronous))
    else:
        # On the instance: its class, and so its type, stays what it is.
        object.__setattr__(copy, "_run", _around(tool._run, gate, hidden, tool, within, False))
        if type(tool)._arun is not BaseTool._arun:
            object.__setattr__(copy, "_arun", _around(tool._arun, gate, hidden, tool, within, True))
        else:
            # LangChain's own runs `self._run` on a thread: of the copy, not of the original.
            object.__setattr__(copy, "_arun", functools.partial(BaseTool._arun, copy))
    object.__setattr__(copy, MARK, gate)
    return copy


def definition_of(tool: BaseTool) -> ToolDefinition:
    """Return a tool as the model sees it, and what its code is."""
    schema = tool.tool_call_schema
    parameters = schema if isinstance(schema, dict) else schema.model_json_schema()
    function = getattr(tool, "func", None) or getattr(tool, "coroutine", None) or type(tool)._run
    return ToolDefinition(
        name=tool.name,
        description=tool.description,
        parameters=parameters,
        arguments=tuple(parameters.get("properties", {})),
        source_digest=source_digest(function),
    )


def injected(tool: BaseTool, definition: ToolDefinition) -> frozenset[str]:
    """Return the names of the arguments that LangChain or LangGraph puts in: no model wrote them."""
    every = tool.args if isinstance(tool.args, dict) else {}
    hidden = {*every, "config", "run_manager", "callbacks", *getattr(tool, "_injected_args_keys", ())}
    return frozenset(hidden)


def _refuse_more_ways(tool: BaseTool) -> None:
    """Refuse a class that runs its tool elsewhere than in `_run` and `_arun`."""
    changed = _own(tool, "invoke", "ainvoke", "run", "arun", "__call__")
    if changed:
        raise TapPassConfigError(
            f"`{tool.name}` can be called past the gate: {type(tool).__name__} has its own {', '.join(changed)}; "
            "override _run and _arun alone, or govern the function that it calls"
        )


def _own(tool: BaseTool, *names: str) -> list[str]:
    """Return those of these methods that LangChain's own class of tool has otherwise."""
    base = next(kind for kind in (StructuredTool, Tool, BaseTool) if isinstance(tool, kind))
    return [
        n for n in names if inspect.getattr_static(type(tool), n, None) is not inspect.getattr_static(base, n, None)
    ]


def _around(
    function: Any, gate: Gate, hidden: frozenset[str], tool: BaseTool, within: Any, asynchronous: bool
) -> Callable[..., Any]:
    """Return what stands where LangChain calls the tool's function."""
    # What the model is offered is shown, whatever it is called.
    hidden = (hidden | _kept(function)) - {*gate.definition.arguments}
    signature = inspect.signature(function)
    told = _pair if tool.response_format == "content_and_artifact" else str

    def named(args: Any, kwargs: Any) -> tuple[dict[str, Any], Callable[..., Any]]:
        arguments, call = by_name(function, args, kwargs, hidden, signature)
        # LangGraph puts it in by the parameter's name alone, however that is annotated.
        if type(arguments.get("runtime")).__name__ == "ToolRuntime":
            del arguments["runtime"]
        return arguments, call

    if asynchronous:

        @functools.wraps(function)
        async def arun(*args: Any, **kwargs: Any) -> Any:
            arguments, call = named(args, kwargs)
            if (guard := within or _guard_here()) is None:
                return await gate.arun(call, arguments, told)
            return await guard.arun_tool(gate, call, arguments, told)

        return arun

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        arguments, call = named(args, kwargs)
        if (guard := within or _guard_here()) is None:
            return gate.run(call, arguments, told)
        return guard.run_tool(gate, call, arguments, told)

    return run


def _guard_here() -> Any:
    """Return the guard in whose run a tool that was governed beforehand is called, None outside any."""
    from tappass_adapters.langchain import AgentGuard

    return current_guard(AgentGuard)


def _kept(function: Any) -> frozenset[str]:
    """Return the parameters of LangGraph's run time, by their annotations."""
    parameters = inspect.signature(function).parameters.values()
    names = ("ToolRuntime", "InjectedState", "InjectedStore", "InjectedToolCallId", "InjectedToolArg", "RunnableConfig")
    return frozenset(p.name for p in parameters if any(name in str(p.annotation) for name in names))


def _pair(text: str) -> tuple[str, None]:
    return text, None
