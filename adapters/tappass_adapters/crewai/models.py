"""One model call of a crew: decided in CrewAI's hook before it, settled with what the model said and took."""

from __future__ import annotations

import contextlib
import copy
import threading
from contextvars import ContextVar
from typing import Any

from crewai.types.usage_metrics import UsageMetrics

from tappass.ext import ModelCall, current_session, irreplaceable
from tappass_adapters.crewai import messages
from tappass_adapters.crewai.refused import standing
from tappass_adapters.crewai.unhooked import is_heard_after

try:
    from crewai.hooks.llm_hooks import (
        model_call_hooks_already_dispatched,
    )
except ImportError:  # pragma: no cover

    def model_call_hooks_already_dispatched() -> bool:
        """Return False: this CrewAI knows no calls that it makes behind its hooks."""
        return False


_asking: ContextVar[Turn | None] = ContextVar("tappass_crewai_turn", default=None)
# A call that code makes itself, between CrewAI's word of it and its hook.
_announced: ContextVar[Any] = ContextVar("tappass_crewai_announced", default=None)
_binding = threading.Lock()

# Where a provider's hook is given the messages that it sends, not a picture of them.
_SENT = ("crewai.llm", "crewai.llms.providers.")
_PICTURED = "crewai.llms.providers.gemini."


class Turn:
    """One model call, from its decision until it is settled."""

    def __init__(self, call: ModelCall, around: Turn | None = None, *, hookless: bool = False) -> None:
        self.around = around
        self.hookless = hookless
        self._call: ModelCall | None = call
        self._call_id = ""
        # A model object of the user's own may not tell what it took.
        call.heard()

    def bind(self, call_id: str) -> bool:
        """Take a call of the model object for this turn's, if it has none yet."""
        with _binding:
            if self._call is None or self._call_id:
                return False
            self._call_id = call_id or "?"
            return True

    def heard(self, event: Any) -> None:
        """Note what the model object says of the call that ended."""
        usage = UsageMetrics.from_provider_dict(event.usage) if event.usage else None
        if self._call is not None:
            tokens = (usage.prompt_tokens, usage.completion_tokens) if usage is not None else (None, None)
            self._call.heard(event.model or "", *tokens)

    def took(self, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """Note what a call took of which the model object says nothing."""
        if self._call is not None:
            self._call.heard("", prompt_tokens, completion_tokens)

    def end(self, said: Any) -> Any:
        """Settle; return what may be seen of what the model said."""
        call, self._call = self._call, None
        return call.after(said) if call is not None else said

    def lapse(self, error: BaseException) -> None:
        """Settle a call of which no answer came."""
        call, self._call = self._call, None
        if call is not None:
            with contextlib.suppress(BaseException):
                call.after(error=error)


class _Unheard(Exception):
    """No answer came by which the framework told of it."""


def asked() -> Turn | None:
    """Return the model call that was decided last here."""
    return _asking.get()


# The hooks.


def before(context: Any) -> None:
    """Stand before a model call; a unit in which something stands makes none."""
    if (earlier := _asking.get()) is not None and not earlier.hookless:
        earlier.lapse(_Unheard("no answer"))
    announced = _announced.get() if context.executor is None else None
    _announced.set(None)
    unseen = messages.unseen(announced, context.messages)
    told = [messages.shown(message) for message in (*unseen, *context.messages)]
    kind = type(context.llm).__module__
    call, allowed = _decided(
        str(getattr(context.llm, "model", None) or context.llm or ""),
        told,
        tools=getattr(context.executor, "_openai_tools", None) or getattr(announced, "tools", None) or (),
        parameters=messages.parameters(context.llm),
        metadata=messages.whose(context),
        fixed=context.executor is None and (not kind.startswith(_SENT) or kind.startswith(_PICTURED)),
    )
    turn = Turn(call, earlier, hookless=context.executor is None and not is_heard_after(context.llm))
    try:
        messages.put(context.messages, told, allowed, len(unseen))
    except BaseException as error:
        turn.lapse(error)
        raise
    _asking.set(turn)


def after(context: Any) -> str | None:
    """Stand after a model call that was answered in text."""
    turn = _asking.get()
    if turn is None or turn.hookless:
        return None
    seen = turn.end(context.response)
    if seen is context.response:
        return None
    shape = getattr(context.executor, "response_model", None)
    if shape is not None:
        # CrewAI goes on with the answer as it was where the redacted one does not fit.
        shape.model_validate_json(seen)
    return str(seen)


def _decided(model: str, told: list[dict[str, Any]], **rest: Any) -> tuple[ModelCall, dict[str, Any]]:
    if (stands := standing(current_session())) is not None:
        raise copy.copy(stands)
    call = ModelCall(model, told, **rest)
    return call, call.before()


# The events: which call it was and what it took, and calls that CrewAI makes behind its hooks (summaries).


def started(_source: Any, event: Any) -> None:
    """Tell the call of a turn, or decide one for which no hook was called."""
    turn = _asking.get()
    if not model_call_hooks_already_dispatched():
        _announced.set(event)
        return
    if turn is not None and turn.bind(event.call_id):
        return
    asked = event.messages if isinstance(event.messages, list) else [{"role": "user", "content": str(event.messages)}]
    told = [messages.shown(message) for message in asked]
    call, _allowed = _decided(event.model or "", told, fixed=True)
    _asking.set(Turn(call, turn, hookless=True))


def completed(_source: Any, event: Any) -> None:
    """Note what a call took; settle the ones after which CrewAI calls no hook."""
    _announced.set(None)
    turn = _asking.get()
    if turn is None:
        return
    turn.heard(event)
    if turn.hookless:
        _asking.set(turn.around)
    elif event.call_type.value != "tool_call":
        return
    session = current_session()
    if turn.end(event.response) != event.response and session is not None:
        raise irreplaceable(session, event.model or "the model")


def failed(_source: Any, event: Any) -> None:
    """Settle a call that failed."""
    if (turn := _asking.get()) is not None:
        if turn.hookless:
            _asking.set(turn.around)
        turn.lapse(_Unheard(str(event.error)))
