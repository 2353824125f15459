"""One tool call of a crew: decided in CrewAI's hook before it, settled with what came of it."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from crewai.tools.agent_tools.base_agent_tools import BaseAgentTool

from tappass.errors import TapPassConfigError, TapPassError
from tappass.ext import Child, Interception, current_session
from tappass_adapters.crewai.refused import Refused, stand, standing, told
from tappass_adapters.crewai.shapes import arguments_of, changed_in_place, definition_of, governed

_running: ContextVar[ToolCall | None] = ContextVar("tappass_crewai_call", default=None)
_holding = threading.Lock()

WITHHELD = "Not shown: refused by policy."


class ToolCall:
    """One call between CrewAI's hooks; an attempt that CrewAI makes again after an error is decided again.

    Attributes:
        error: what the tool raised, as far as CrewAI tells.
    """

    def __init__(self, context: Any, around: ToolCall | None) -> None:
        self.around = around
        self.error: Any = None
        self._name = context.tool_name
        self._input = context.tool_input
        self._tool = context.tool
        self._text: str | None = None
        self._call: Interception | None = None
        self._decided: dict[str, Any] | None = None
        self._arguments: dict[str, Any] = {}
        self._failed: BaseException | None = None
        self._child: Child | None = None
        self._held = False

    def matches(self, context: Any) -> bool:
        """Tell whether a hook is called for this call, and not for one that another hook stopped."""
        return context.tool_input is self._input

    def begin(self) -> None:
        """Decide; what may not run is aborted, and the model told where the guard tells."""
        if governed(self._tool):
            return
        try:
            arguments = arguments_of(self._tool, self._input)
            self._arguments = self._decide(arguments)
            changed_in_place(self._tool, self._name, self._input, arguments, self._arguments)
            self._decided = arguments
            self._hold()
            self._delegate()
        except TapPassError as error:
            self._refuse(error)
        except Exception as error:
            self._settle(error)
            raise

    def _decide(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self._call = Interception(self._name, arguments, definition=definition_of(self._tool, self._name))
        return self._call.before()

    def _refuse(self, error: TapPassError) -> None:
        self._settle(error)
        self._text = told(error)
        if self._text is None:
            stand(error)
        raise Refused(error) from error

    # What CrewAI runs again by itself after an error goes through here.

    def _hold(self) -> None:
        if self._tool is None or getattr(self._tool, "func", None) is None:
            return
        with _holding:
            once = self._tool.func
            if not isinstance(getattr(once, "tappass_held", None), list):
                once = self._tool.func = _once(self._tool, once)
            once.tappass_held.append(self)
        self._held = True

    def _release(self) -> None:
        if not self._held:
            return
        self._held = False
        with _holding:
            once = self._tool.func
            if self in (held := getattr(once, "tappass_held", [])):
                held.remove(self)
            if not held and hasattr(once, "tappass_function"):
                self._tool.func = once.tappass_function

    def serves(self, tool: Any) -> bool:
        """Tell whether it is this call that runs the tool's function."""
        return tool is self._tool

    def attempt(self, function: Callable[..., Any], given: dict[str, Any]) -> Any:
        """Run the tool's function once."""
        arguments = self._allowed(given)
        try:
            result = function(**arguments)
        except BaseException as error:
            self._settle(error=error)
            raise
        return self._later(result) if inspect.isawaitable(result) else self._ended(result)

    async def _later(self, result: Awaitable[Any]) -> Any:
        try:
            found = await result
        except BaseException as error:
            self._settle(error=error)
            raise
        return self._ended(found)

    def _allowed(self, given: dict[str, Any]) -> dict[str, Any]:
        if self._failed is not None:
            raise self._failed
        if self._decided is not None and given in (self._decided, self._arguments):
            self._decided = None
            return self._arguments
        try:
            return self._decide(given)
        except TapPassError as error:
            self._failed = error
            raise

    def _ended(self, result: Any) -> Any:
        call, self._call = self._call, None
        try:
            return call.after(result) if call is not None else result
        except TapPassError as error:
            self._failed = error
            if (text := told(error)) is None:
                raise
            return text

    def _settle(self, error: BaseException) -> None:
        call, self._call = self._call, None
        if call is not None:
            # It raises the error given; and where nothing was decided there is nothing to settle.
            with contextlib.suppress(BaseException):
                call.after(error=error)

    # A delegated agent.

    def _delegate(self) -> None:
        helper = getattr(self._tool, "_original_tool", None)
        session = current_session()
        if not isinstance(helper, BaseAgentTool) or session is None:
            return
        named = self._arguments.get("coworker") or self._input.get("co_worker") or ""
        asked = helper.sanitize_agent_name(helper._get_coworker(named) or "")
        for agent in helper.agents:
            if helper.sanitize_agent_name(agent.role) == asked:
                child = Child(session, agent.role, "agent", metadata={"agents": [agent.role], "within": session.name})
                child.__enter__()
                self._child = child
                return

    def leave(self) -> None:
        """Close what the call opened."""
        self._release()
        if self._child is not None:
            child, self._child = self._child, None
            # CrewAI makes a text of what stopped the agent.
            stopped = standing(child.session)
            child.__exit__(type(stopped) if stopped is not None else None, stopped, None)

    def end(self, shown: Any) -> str | None:
        """Settle; return what the model reads instead of what CrewAI has for it, None to leave that."""
        if self._text is not None:
            return self._text
        for error in (self._failed, self.error):
            if isinstance(error, TapPassError):
                return told(error)
        if self._call is None:
            return None
        if self.error is not None:
            self._settle(self.error if isinstance(self.error, BaseException) else RuntimeError(str(self.error)))
            return None
        try:
            seen = self._call.after(shown)
        except TapPassError as error:
            return told(error) or WITHHELD
        return None if seen is shown else str(seen)


def _once(tool: Any, function: Any) -> Any:
    """Return what stands in for a tool's function while calls of it are under way."""

    def once(*args: Any, **kwargs: Any) -> Any:
        call = _running.get()
        if args or call is None or not call.serves(tool):
            return function(*args, **kwargs)
        return call.attempt(function, kwargs)

    async def aonce(*args: Any, **kwargs: Any) -> Any:
        return await once(*args, **kwargs)

    chosen: Any = aonce if inspect.iscoroutinefunction(function) else once
    chosen.tappass_held = []
    chosen.tappass_function = function
    return chosen


# The hooks.


def before(context: Any) -> None:
    """Stand before a tool call."""
    call = ToolCall(context, _running.get())
    _running.set(call)
    call.begin()


def after(context: Any) -> str | None:
    """Stand after a tool call; CrewAI comes here after one that was stopped, too."""
    call = _running.get()
    if call is None or not call.matches(context):
        return None
    _running.set(call.around)
    try:
        call.leave()
        return call.end(context.tool_result)
    except Exception as error:
        # CrewAI would swallow it and show the result.
        stand(error if isinstance(error, TapPassError) else _failure(context.tool_name, error))
        return WITHHELD


def _failure(name: str, error: Exception) -> TapPassConfigError:
    failure = TapPassConfigError(f"the result of `{name}` was not shown: the guard failed with {type(error).__name__}")
    failure.__cause__ = error
    return failure


def noted(error: Any) -> None:
    """Note what the tool raised that runs here, as an event tells."""
    if (call := _running.get()) is not None:
        call.error = error
