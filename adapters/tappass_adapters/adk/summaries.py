"""Summaries of a history that grew long: ADK has a model write them without a word to plugins."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from tappass.errors import TapPassError
from tappass.ext import tell
from tappass_adapters.adk.plugin import speaking

if TYPE_CHECKING:
    from tappass_adapters.adk.guard import AdkGuard

summing: ContextVar[bool] = ContextVar("tappass_adk_summing", default=False)
"""Whether what a model says here is taken for a summary."""


class Summaries:
    """The summaries of one guard's runs."""

    def __init__(self, guard: AdkGuard) -> None:
        self._guard = guard
        self._known: dict[int, Any] = {}

    def expect(self, invocation: Any, agent: Any = None) -> None:
        """Stand before who sums up, where a run has one, until the unit ends: as told, or else the agent's model."""
        config = getattr(invocation, "events_compaction_config", None)
        if config is None:
            return
        summarizer = config.summarizer
        if summarizer is None:
            if (model := getattr(agent, "canonical_model", None)) is not None:
                self._guard.models.stand(model)
            return
        if id(summarizer) not in self._known:
            self._known[id(summarizer)] = summarizer
            self._guard.arm(summarizer, "maybe_summarize_events", _around)
        if (model := getattr(summarizer, "_llm", None)) is not None:
            self._guard.models.stand(model)


def _around(original: Any) -> Any:
    async def maybe_summarize_events(**given: Any) -> Any:
        token = summing.set(True)
        try:
            return await original(**given)
        except TapPassError as error:
            guard = speaking()
            if guard is None:
                raise
            # Nobody to be told: the history stays as it is, and a refusal is not taken for what happened.
            tell(guard.session, error)
            return None
        finally:
            summing.reset(token)

    return maybe_summarize_events
