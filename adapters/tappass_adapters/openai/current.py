"""Which guard governs here, and which of its runs this is."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tappass_adapters.openai.guard import OpenAIGuard
    from tappass_adapters.openai.runs import Run

guards: ContextVar[OpenAIGuard | None] = ContextVar("tappass_openai_guard", default=None)
runs: ContextVar[Run | None] = ContextVar("tappass_openai_run", default=None)
# A model call of the Agents SDK that is governed already goes through a governed client as through any other.
governed_above: ContextVar[bool] = ContextVar("tappass_openai_above", default=False)


def current_run() -> Run | None:
    """Return the run of the Agents SDK that goes on here, None outside any guard's."""
    return runs.get()
