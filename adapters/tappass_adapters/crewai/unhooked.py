"""What a model object does by itself: tools it runs (`available_functions`), which CrewAI tells of, without a hook."""

from __future__ import annotations

import contextlib
import inspect
import sys
from contextvars import ContextVar
from types import FrameType
from typing import Any

from crewai.llms.base_llm import BaseLLM

from tappass.ext import Interception, current_session, irreplaceable
from tappass_adapters.crewai.calls import noted

_by_model: ContextVar[Interception | None] = ContextVar("tappass_crewai_model_tool", default=None)


def started(source: Any, event: Any) -> None:
    """Decide what a model object is about to run."""
    if isinstance(source, BaseLLM):
        arguments = event.tool_args if isinstance(event.tool_args, dict) else {"input": event.tool_args}
        call = Interception(event.tool_name, arguments, fixed=True)
        _by_model.set(None)
        call.before()
        _by_model.set(call)


def finished(source: Any, event: Any) -> None:
    """Settle what a model object ran; its result cannot be replaced, so one that may not be seen is an error."""
    call = _by_model.get()
    if not isinstance(source, BaseLLM) or call is None:
        return
    _by_model.set(None)
    session = current_session()
    if call.after(event.output) is not event.output and session is not None:
        raise irreplaceable(session, event.tool_name)


def errored(source: Any, event: Any) -> None:
    """Note what a tool raised."""
    if isinstance(source, BaseLLM):
        call = _by_model.get()
        _by_model.set(None)
        if call is not None:
            with contextlib.suppress(RuntimeError):
                call.after(error=RuntimeError(str(event.error)))
    else:
        noted(event.error)


def is_heard_after(llm: Any) -> bool:
    """Tell whether CrewAI comes back to its hooks with the answer of a model object that code calls itself.

    It does so from `call` alone, and where the answer is a text.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != "_invoke_before_llm_call_hooks":
        frame = frame.f_back
    asks = frame.f_back if frame is not None else None
    if asks is None:
        return True
    shape = asks.f_locals.get("response_model") or isinstance(getattr(llm, "response_format", None), type)
    return not (asks.f_code.co_flags & inspect.CO_COROUTINE or (shape and type(llm).__module__ != "crewai.llm"))
