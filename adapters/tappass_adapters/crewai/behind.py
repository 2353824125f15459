"""What CrewAI runs where it calls no hook and tells nobody: tools of declared flows, and answers put into a shape."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

from crewai.flow.runtime._actions import ToolAction
from crewai.utilities.internal_instructor import InternalInstructor
from crewai.utilities.string_utils import sanitize_tool_name

from tappass.ext import Gate
from tappass_adapters.arming import arm
from tappass_adapters.crewai import models
from tappass_adapters.crewai.refused import failing
from tappass_adapters.crewai.shapes import arguments_of, changed_in_place, definition_of, governed
from tappass_adapters.crewai.tools import told_as_failure


@contextlib.contextmanager
def standing_behind(speaks: Callable[[], Any]) -> Iterator[None]:
    """Stand there for as long as a guard is active.

    Args:
        speaks: returns the guard in which something happens, None outside any.
    """
    undo = [
        arm(ToolAction, "run", lambda original: _acting(original, speaks)),
        arm(InternalInstructor, "to_pydantic", lambda original: _shaping(original, speaks)),
    ]
    try:
        yield
    finally:
        for put_back in undo:
            put_back()


def _acting(original: Callable[..., Any], speaks: Callable[[], Any]) -> Any:
    """Return how a flow runs a tool that its declaration names: decided."""

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        if speaks() is not None and not governed(self.tool):
            tool, self = self.tool, copy.copy(self)
            self.tool = _Decided(tool)
        return original(self, *args, **kwargs)

    return run


class _Decided:
    """A tool for one step of a flow."""

    def __init__(self, tool: Any) -> None:
        self._tool = tool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tool, name)

    def run(self, **given: Any) -> Any:
        """Run the tool, decided by the arguments that it will get."""
        tool = self._tool
        name = sanitize_tool_name(tool.name)
        arguments = arguments_of(tool, given)

        def run(**allowed: Any) -> Any:
            changed_in_place(tool, name, given, arguments, allowed)
            return tool.run(**given)

        definition = definition_of(tool, name)
        assert definition is not None
        return Gate(name, definition).run(run, arguments, told_as_failure)


def _shaping(original: Callable[..., Any], speaks: Callable[[], Any]) -> Any:
    """Return how a model's own client puts an answer into a shape: there is a hook before it, but none after."""

    def to_pydantic(self: Any) -> Any:
        around = models.asked()
        try:
            shaped = original(self)
        except BaseException as error:
            if (turn := models.asked()) is not around and turn is not None:
                turn.lapse(error)
            raise
        turn = models.asked()
        if speaks() is None or turn is None or turn is around:
            return shaped
        with failing("the model"):
            return _seen(turn, shaped)

    return to_pydantic


def _seen(turn: models.Turn, shaped: Any) -> Any:
    """Settle the call; return what may be seen of the answer, in its shape."""
    usage = getattr(getattr(shaped, "_raw_response", None), "usage", None)
    turn.took(getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
    said = shaped.model_dump_json()
    seen = turn.end(said)
    return shaped if seen == said else type(shaped).model_validate_json(seen)
