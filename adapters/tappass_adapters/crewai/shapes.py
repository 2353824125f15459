"""What CrewAI's tools look like: their definition, and the arguments that they will get."""

from __future__ import annotations

import inspect
import weakref
from typing import Any

from crewai.tools.base_tool import BaseTool, Tool
from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from tappass.errors import TapPassConfigError
from tappass.ext import MARK, ToolDefinition, source_digest

OURS = "__tappass_crewai__"

_definitions: weakref.WeakKeyDictionary[Any, dict[Any, ToolDefinition]] = weakref.WeakKeyDictionary()


def original(tool: Any) -> Any:
    """Return the tool that the user wrote, of what CrewAI made of it for a run."""
    return getattr(tool, "_original_tool", None) or tool


def governed(tool: Any) -> bool:
    """Tell whether a tool decides for itself: it came out of `govern`, or its function is a governed one."""
    written = original(tool)
    if hasattr(type(written), OURS):
        return True
    functions = (getattr(written, "func", None), getattr(type(written), "_run", None))
    return any(getattr(function, mark, None) is not None for function in functions for mark in (OURS, MARK))


def definition_of(tool: Any, name: str) -> ToolDefinition | None:
    """Return a tool as its framework describes it, None for one that there is not."""
    if tool is None:
        return None
    schema = getattr(tool, "args_schema", None)
    known = _definitions.setdefault(schema, {}) if schema is not None else {}
    described = str(getattr(tool, "description", "") or "")
    work = _work(tool)
    found = known.get((name, described, work))
    if found is None:
        parameters = schema.model_json_schema() if schema is not None else {}
        found = known[name, described, work] = ToolDefinition(
            name=name,
            description=described,
            parameters=parameters,
            arguments=tuple(schema.model_fields) if schema is not None else (),
            open_arguments=schema is None or not schema.model_fields or schema.model_config.get("extra") == "allow",
            source_digest=source_digest(work),
        )
    return found


def _work(tool: Any) -> Any:
    """Return the function that does a tool's work."""
    written = original(tool)
    function = getattr(written, "func", None) or getattr(type(written), "_run", None)
    return getattr(function, "tappass_function", function)


def arguments_of(tool: Any, given: Any) -> dict[str, Any]:
    """Return the arguments that a tool will get: as its schema reads what the model gave, defaults filled."""
    if not isinstance(given, dict):
        raise TapPassConfigError("a tool was not run: its arguments are no object")
    read = _read(tool, given)
    return dict(given) if read is None else read


def changed_in_place(
    tool: Any, name: str, given: dict[str, Any], decided: dict[str, Any], allowed: dict[str, Any]
) -> None:
    """Have a tool get what was decided: CrewAI reads the arguments again, from the object that its hooks share.

    Raises:
        TapPassConfigError: read again, they would be others.
    """
    stable = _read(tool, given) in (None, decided)
    for key, value in allowed.items():
        if not stable or value is not decided[key]:
            given[key] = to_jsonable_python(value)
    again = _read(tool, given)
    # What its schema refuses does not run.
    if again is not None and again != allowed:
        raise TapPassConfigError(f"`{name}` was not run: its arguments change each time that they are read")


def _read(tool: Any, given: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a tool's schema makes of arguments, None where it is not asked, or refuses them."""
    schema = getattr(tool, "args_schema", None)
    written = original(tool)
    own = isinstance(written, BaseTool) and type(written).run not in (BaseTool.run, Tool.run)
    if own or not (inspect.isclass(schema) and issubclass(schema, BaseModel)) or not schema.model_fields:
        return None
    try:
        return dict(schema.model_validate(given).model_dump())
    except (ValidationError, TypeError, ValueError):
        return None
