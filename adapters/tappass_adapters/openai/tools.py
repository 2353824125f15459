"""Function tools of the Agents SDK, governed where the SDK invokes one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from tappass.errors import TapPassConfigError, TapPassError
from tappass.ext import Gate, Governing, Interception, ToolDefinition, source_digest
from tappass_adapters.openai.current import current_run

if TYPE_CHECKING:
    from agents import FunctionTool

MARK = "__tappass_gate__"

Decided: TypeAlias = tuple[Interception, dict[str, Any] | TapPassError]


def govern_tool(tool: FunctionTool, governing: Governing) -> FunctionTool:
    """Return a copy of a function tool that is governed whoever runs it; one that is governed, as it is.

    Raises:
        TapPassConfigError: it was governed, and has been given another name, description or schema since.
    """
    definition = definition_of(tool)
    if (known := gate_of(tool)) is not None:
        if known.definition != definition:
            raise TapPassConfigError(
                f"the tool `{known.name}` was changed after it was governed; change it first, then govern it"
            )
        return tool
    governed = copy.copy(tool)
    governed.on_invoke_tool = _governed(tool, governing.gate(definition))
    return governed


def gate_of(tool: Any) -> Gate | None:
    """Return the gate before a governed tool, None for any other."""
    return getattr(getattr(tool, "on_invoke_tool", None), MARK, None)


def plain(tool: Any) -> Any:
    """Return the tool that was governed, any other as it is."""
    gate = gate_of(tool)
    return tool if gate is None else getattr(tool.on_invoke_tool, "__tappass_tool__", tool)


def definition_of(tool: FunctionTool) -> ToolDefinition:
    """Return a function tool's definition as the model is told of it; MCP tools with their server."""
    schema = dict(tool.params_json_schema)
    properties = schema.get("properties")
    origin = getattr(tool, "_tool_origin", None)
    return ToolDefinition(
        name=named(tool),
        description=tool.description,
        parameters=schema,
        arguments=tuple(properties) if isinstance(properties, dict) else (),
        open_arguments=schema.get("additionalProperties") is not False,
        source_digest=source_digest(getattr(plain(tool), "__wrapped__", None)),
        server=getattr(origin, "mcp_server_name", None) or "",
    )


def named(tool: FunctionTool) -> str:
    """Return a tool's name as policy calls it, within its namespace where it has one."""
    return str(getattr(tool, "qualified_name", "") or tool.name)


def arguments_of(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model gave a tool, by name, with what its schema fills in; text that is no object as `input`."""
    try:
        given = json.loads(text) if text.strip() else {}
    except ValueError:
        given = None
    if not isinstance(given, dict):
        return {"input": text}
    properties = schema.get("properties")
    filled = {
        name: one["default"]
        for name, one in (properties.items() if isinstance(properties, dict) else ())
        if name not in given and isinstance(one, dict) and "default" in one
    }
    return given | filled


def text_of(arguments: dict[str, Any], text: str, read: dict[str, Any]) -> str:
    """Return the text that a tool gets: never the model's own, of which two readers may make two things."""
    if set(read) == {"input"} and read["input"] == text:
        return str(arguments["input"])
    return json.dumps(arguments)


def _governed(tool: FunctionTool, gate: Gate) -> Callable[..., Any]:
    inner = tool.on_invoke_tool
    schema = gate.definition.parameters

    async def on_invoke_tool(context: Any, text: str) -> Any:
        if (called := getattr(context, "qualified_tool_name", gate.name)) != gate.name:
            raise TapPassConfigError(f"the tool `{gate.name}` was renamed to `{called}` after it was governed")
        run, call_id = current_run(), str(getattr(context, "tool_call_id", ""))
        read = arguments_of(text, schema)
        call, decided = await run.decide(gate, call_id, read) if run is not None else await decide(gate.intercept(read))
        if isinstance(decided, TapPassError):
            return call.refused(decided)
        arguments = decided
        given = text_of(arguments, text, read)
        if arguments != read:
            context = _redacted(context, given)
        try:
            if run is None:
                result = await inner(context, given)
            else:
                with run.active():
                    result = await inner(context, given)
        except BaseException as error:
            await call.aafter(error=error)
            raise
        try:
            return await call.aafter(result)
        except TapPassError as error:
            return call.refused(error)

    setattr(on_invoke_tool, MARK, gate)
    on_invoke_tool.__tappass_tool__ = tool  # type: ignore[attr-defined]
    return on_invoke_tool


async def decide(call: Interception) -> Decided:
    """Decide a call; return it with the arguments that it may be made with, or with its refusal."""
    try:
        return call, await call.abefore()
    except TapPassError as error:
        return call, error


def _redacted(context: Any, text: str) -> Any:
    """Return a tool's context that shows the arguments it may see, not the ones that the model gave."""
    shown = copy.copy(context)
    if hasattr(shown, "tool_arguments"):
        shown.tool_arguments = text
    if getattr(shown, "tool_call", None) is not None:
        shown.tool_call = shown.tool_call.model_copy(update={"arguments": text})
    return shown
