"""OpenAI: the Agents SDK, and loops around the official client."""

from __future__ import annotations

from typing import Any, Unpack

from tappass.ext import GuardOptions, guarding
from tappass_adapters.openai.guard import OpenAIGuard


def guard_openai_run(target: Any = None, /, **asked: Unpack[GuardOptions]) -> OpenAIGuard:
    """Return a guard around one run: a decorator, `guard_openai_run()(Runner.run)`, or a context.

    Inside, every run of the Agents SDK is governed, wherever it is called: model calls are decided before they are
    sent, tool calls before they run. Of the official client (`OpenAI`, `AsyncOpenAI`) it gives a governed one:
    `with guard_openai_run(client) as guarded` governs a loop over responses, chat completions or threads.

    Args:
        target: an agent, `Runner` or a client, to be entered; None for a decorator.
        asked: see `GuardOptions`.

    Raises:
        TapPassConfigError: the target, or an option, is not one that the guard knows.
    """
    return guarding(OpenAIGuard, target, asked)  # type: ignore[no-any-return]


# One object serves both; the second name says at the call which one is meant.
guard_openai_run_async = guard_openai_run

__all__ = ["OpenAIGuard", "guard_openai_run", "guard_openai_run_async"]
