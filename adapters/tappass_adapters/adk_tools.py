"""`govern([...])` for Google ADK's tool objects: same type, same schema, decided on every path by which one runs."""

from __future__ import annotations

import copy
import functools
import inspect
from typing import Any

from google.adk.tools.base_tool import BaseTool
from google.adk.tools.function_tool import FunctionTool

from tappass.errors import TapPassConfigError
from tappass.ext import Gate, Governing
from tappass_adapters.adk.tools import GATE, definition_of, is_governed


def govern_tool(tool: BaseTool, governing: Governing) -> BaseTool:
    """Return the governed twin of a tool; one that is governed already is returned as it is.

    Raises:
        TapPassConfigError: it does not run here, or hands on what nobody could inspect before.
    """
    if is_governed(tool):
        return tool
    if getattr(type(tool), "run_async", None) is BaseTool.run_async:
        raise TapPassConfigError(
            f"the tool `{tool.name}` is run where the model is, not here, so there is nothing to govern; a rule for "
            "model calls sees it among the tools offered"
        )
    if getattr(tool, "_defers_response", False):
        raise TapPassConfigError(
            f"ADK does not run the tool `{tool.name}`, but the agent it stands for; guard the run: guard_adk_agent()"
        )
    _refuse_generator(tool)
    gate = governing.gate(definition_of(tool))
    inner = copy.copy(tool)
    if hasattr(vars(inner).get("run_async"), "__tappass_armed__"):
        # It was governed inside a guard's run: what that put on it stays behind.
        del vars(inner)["run_async"]
    governed = copy.copy(inner)
    vars(governed)[GATE] = gate
    vars(governed)["run_async"] = _run_async(gate, inner)
    if isinstance(tool, FunctionTool):
        governed.func = _function(gate, tool)
    return governed


def _refuse_generator(tool: BaseTool) -> None:
    function = getattr(tool, "func", None)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TapPassConfigError(
            f"the tool `{tool.name}` is a generator, whose items ADK hands on before they could be inspected; return "
            "the result, or guard the run: guard_adk_agent()"
        )


def _run_async(gate: Gate, inner: BaseTool) -> Any:
    async def run_async(*, args: dict[str, Any], tool_context: Any) -> Any:
        async def run(**changed: Any) -> Any:
            args.clear()
            args.update(changed)
            return await inner.run_async(args=changed, tool_context=tool_context)

        return await gate.arun(run, copy.deepcopy(args), lambda text: {"error": text})

    return run_async


def _function(gate: Gate, tool: FunctionTool) -> Any:
    """Return the tool's function, governed for who calls it past the tool."""
    function = tool.func
    injected = set(tool._ignore_params)
    signature = inspect.signature(function)
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), "")

    def named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        context = {name: given.arguments.pop(name) for name in injected & given.arguments.keys()}

        def call(**changed: Any) -> Any:
            values = changed | context
            more = {name: values.pop(name) for name in [*values] if name not in signature.parameters}
            again = signature.bind_partial()
            again.arguments.update({name: values[name] for name in signature.parameters if name in values})
            return function(*again.args, **again.kwargs, **more)

        return call, given.arguments | dict(given.arguments.pop(rest, {}))

    if inspect.iscoroutinefunction(inspect.unwrap(function)):

        @functools.wraps(function)
        async def agoverned(*args: Any, **kwargs: Any) -> Any:
            return await gate.arun(*named(args, kwargs))

        return agoverned

    @functools.wraps(function)
    def governed(*args: Any, **kwargs: Any) -> Any:
        return gate.run(*named(args, kwargs))

    return governed
