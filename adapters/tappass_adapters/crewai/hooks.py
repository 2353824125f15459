"""Where a guard stands in CrewAI: hooks of an execution's scope, and a sink for the events that hooks do not see."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from crewai.agents.agent_adapters.base_agent_adapter import BaseAgentAdapter
from crewai.events import event_context
from crewai.events.stream_context import (
    add_stream_sink,
    reset_stream_sinks,
)
from crewai.hooks.dispatch import (
    InterceptionPoint,
    get_scoped_hooks,
    scoped_hooks,
)
from crewai.types.streaming import StreamingOutputBase

from tappass.errors import TapPassConfigError
from tappass_adapters.crewai import calls, models, unhooked
from tappass_adapters.crewai.behind import standing_behind
from tappass_adapters.crewai.refused import Refused, failing

try:
    from crewai.types.streaming import StreamSessionBase
except ImportError:  # pragma: no cover
    StreamSessionBase = StreamingOutputBase

# Not `current_guard`: between two guards of this framework may stand one of another, which has no hooks here.
_guard: ContextVar[Any] = ContextVar("tappass_crewai_guard", default=None)

_HOOKS = {
    InterceptionPoint.PRE_MODEL_CALL: models.before,
    InterceptionPoint.POST_MODEL_CALL: models.after,
    InterceptionPoint.PRE_TOOL_CALL: calls.before,
    InterceptionPoint.POST_TOOL_CALL: calls.after,
}


class Hook:
    """One hook of a guard. CrewAI lets a call go on whose hook failed: whatever fails here aborts it."""

    def __init__(self, guard: Any, function: Callable[[Any], Any]) -> None:
        self._guard = guard
        self._function = function

    def __call__(self, context: Any) -> Any:
        if _guard.get() is not self._guard:
            return None
        with failing(getattr(context, "tool_name", "") or "the model"):
            return self._function(context)


class _OursLast(list[Any]):
    """A scope's hooks at one point: what is registered later still comes before the guard's."""

    def append(self, hook: Any) -> None:
        self.insert(max(len(self) - 1, 0), hook)


@contextlib.contextmanager
def hooked(guard: Any) -> Iterator[None]:
    """Have CrewAI's hooks lead to a guard; the hooks of the scope around stay, those of a guard around do not."""
    scope = {point: [h for h in get_scoped_hooks(point) if not isinstance(h, Hook)] for point in InterceptionPoint}
    for point, function in _HOOKS.items():
        scope[point] = _OursLast([*scope[point], Hook(guard, function)])
    before = _guard.get()
    _guard.set(guard)
    token = add_stream_sink(_sink(guard))
    scoped = scoped_hooks(scope)
    scoped.__enter__()
    try:
        with standing_behind(_guard.get), unwound():
            yield
    finally:
        # Left in another context than entered, there is nothing to restore.
        with contextlib.suppress(ValueError):
            scoped.__exit__(None, None, None)
        with contextlib.suppress(ValueError):
            reset_stream_sinks(token)
        _guard.set(before)


@contextlib.contextmanager
def unwound() -> Iterator[None]:
    """Have a run that fails leave no event scopes open: CrewAI, which leaves them, refuses to run below a hundred."""
    stack = event_context._event_id_stack.get()
    try:
        yield
    except BaseException:
        event_context.restore_event_scope(stack)
        raise


def _sink(guard: Any) -> Callable[[Any, Any], None]:
    def sink(source: Any, event: Any) -> None:
        if _guard.get() is not guard:
            return
        kind = getattr(event, "type", "")
        if kind == "hook_dispatched" and _only_ours(event):
            event_context._last_event_id.set(event.previous_event_id)
            raise _Withheld
        heard = _EVENTS.get(kind)
        if heard is None:
            return
        # Raising here ends what emits the event: CrewAI calls its sinks before it goes on.
        with failing(getattr(event, "tool_name", "") or "the model"):
            if event.type.endswith("_started"):
                _unhidden(guard)
            heard(source, event)

    return sink


class _Withheld(Exception):
    """Ends the event of a dispatch that only the guard's hook had a part in; CrewAI swallows it where it made it.

    Of that event CrewAI's telemetry would tell its vendor, decision by decision, at 1.5 ms of CPU each.
    """


def _only_ours(event: Any) -> bool:
    hooks = get_scoped_hooks(InterceptionPoint(event.interception_point))
    return event.hook_count == 1 and any(isinstance(hook, Hook) for hook in hooks)


def _own(_source: Any, event: Any) -> None:
    """Refuse an agent that another framework runs: neither its tools nor its models come by here."""
    if isinstance(event.agent, BaseAgentAdapter):
        raise TapPassConfigError(
            f"guard_crew() does not see what {type(event.agent).__name__} does: guard that agent in its own framework"
        )


_EVENTS: dict[str, Callable[[Any, Any], None]] = {
    "agent_execution_started": _own,
    "llm_call_started": models.started,
    "llm_call_completed": models.completed,
    "llm_call_failed": models.failed,
    "tool_usage_started": unhooked.started,
    "tool_usage_finished": unhooked.finished,
    "tool_usage_error": unhooked.errored,
}


def _unhidden(guard: Any) -> None:
    """Refuse to go on where somebody's own `scoped_hooks()` inside the run hides the guard's."""
    hooks = get_scoped_hooks(InterceptionPoint.PRE_TOOL_CALL)
    if not any(isinstance(hook, Hook) and hook._guard is guard for hook in hooks):
        raise TapPassConfigError(
            "a scoped_hooks() inside the guarded run hides the guard's hooks; register yours with register_scoped() in "
            "the scope that is there, or open the scope around the guard"
        )


def streams(result: Any) -> bool:
    """Tell whether a result is one of CrewAI's streams."""
    return isinstance(result, StreamingOutputBase | StreamSessionBase)


__all__ = ["Refused", "hooked", "streams"]
