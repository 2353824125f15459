"""CrewAI: `guard_crew` for crews, flows and agents."""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Unpack

from tappass.errors import TapPassConfigError, TapPassError
from tappass.ext import Guard, GuardOptions, guarding, missing


class CrewGuard(Guard[Any]):
    """A guard around a crew's kickoff, a flow's or an agent's; see `guard_crew`."""

    guard = "guard_crew"
    kind = "crew"
    entrypoints = frozenset(
        {
            "kickoff",
            "kickoff_async",
            "akickoff",
            "kickoff_for_each",
            "kickoff_for_each_async",
            "akickoff_for_each",
            "replay",
            "train",
            "test",
            "resume",
            "resume_async",
            "stream_events",
            "astream",
        }
    )

    def __init__(self, target: Any, asked: Mapping[str, Any], entry: Any = None) -> None:
        _hooks()  # now, not when it is entered
        given = asked.get("metadata")
        named = _names(target if target is not None else getattr(entry, "__self__", None))
        told = {**named, **(given or {})} if isinstance(given, Mapping | None) else given
        super().__init__(target, {**asked, "metadata": told}, entry)
        self._said = dict(asked)

    def titled(self) -> str:
        """Return the crew's name, the agent's role, or the flow's name or class."""
        named = self.target if self.target is not None else getattr(self.entry, "__self__", None)
        name = getattr(named, "name", None) or getattr(named, "role", None)
        if isinstance(name, str) and name:
            return name
        return type(named).__name__ if named is not None else super().titled()

    def hooks(self) -> AbstractContextManager[Any]:
        """Return a context in which CrewAI's hooks lead here."""
        context: AbstractContextManager[Any] = _hooks().hooked(self)
        return context

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an entrypoint; what stops the run is our refusal, not CrewAI's word for it."""
        try:
            with _hooks().unwound():
                result = super().call(function, args, kwargs)
        except Exception as error:
            self._surface(error)
            raise
        return self._awaiting(result) if inspect.iscoroutine(result) else result

    def deliver(self, result: Any) -> Any:
        """Return a result; CrewAI's streams do their work when they are iterated, inside the unit."""
        if isinstance(result, list):
            return [self.deliver(one) for one in result]
        if not _hooks().streams(result):
            return super().deliver(result)
        # The object stays: its `result` is set by the framework when the iterator ends.
        if result._sync_iterator is not None:
            result._sync_iterator = self.stream(self._surfacing(result._sync_iterator))
        if result._async_iterator is not None:
            result._async_iterator = self.astream(self._asurfacing(result._async_iterator))
        return result

    def _surface(self, error: BaseException) -> None:
        """Raise the refusal that stopped the run, if one did."""
        refusal = self._refusal(error)
        if refusal is not None and not isinstance(error, TapPassError):
            raise copy.copy(refusal) from error

    # A copy of the crew, kicked off inside the block, ends with CrewAI's word for our refusal.

    def _closing(self, error: BaseException | None) -> tuple[str, BaseException | None]:
        if error is not None and self._is_word_for_ours(error):
            error = self._refusal(error) or error
        return super()._closing(error)

    def _is_word_for_ours(self, error: BaseException) -> bool:
        # Before 1.15.20 a model call that a hook aborts ends in a ValueError that says so.
        return hasattr(error, "refusal") or "before_llm_call hook" in str(error)

    def _refusal(self, error: BaseException) -> TapPassError | None:
        return self.session.standing or getattr(error, "refusal", None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if error is not None and self._is_word_for_ours(error):
            self._surface(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        if error is not None and self._is_word_for_ours(error):
            self._surface(error)

    async def _awaiting(self, result: Coroutine[Any, Any, Any]) -> Any:
        try:
            with _hooks().unwound():
                return await result
        except Exception as error:
            self._surface(error)
            raise

    def _surfacing(self, source: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from source
        except Exception as error:
            self._surface(error)
            raise

    async def _asurfacing(self, source: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for item in source:
                yield item
        except Exception as error:
            self._surface(error)
            raise
        finally:
            if (aclose := getattr(source, "aclose", None)) is not None:
                await aclose()


def guard_crew(target: Any = None, /, **asked: Unpack[GuardOptions]) -> Any:
    """Guard a crew, a flow or an agent of CrewAI: every tool call and model call is decided and recorded.

    `guard_crew()(crew.kickoff)` decorates an entrypoint, `with guard_crew(crew) as guarded` enters.

    Args:
        target: the crew, flow or agent, to be entered; an entrypoint, to be decorated; nothing for a decorator.
        asked: see `GuardOptions`.

    Raises:
        TapPassConfigError: CrewAI is not installed, or too old; or an option is unknown.
    """
    return guarding(CrewGuard, target, asked)


guard_crew_async = guard_crew


def _hooks() -> Any:
    try:
        import crewai
    except ImportError as error:
        raise missing("crewai", "guard_crew()") from error
    try:
        from tappass_adapters.crewai import hooks
    except ImportError as error:
        raise TapPassConfigError(
            f"guard_crew() cannot hold CrewAI {crewai.__version__}, which has no hooks to stand in ({error}); "
            "see `tappass doctor` for the oldest version that is supported"
        ) from error
    return hooks


def _names(target: Any) -> dict[str, list[str]]:
    """Return how CrewAI names the agents and the tasks of a crew, for rules to read as `session.metadata`."""
    names = {
        "agents": [getattr(agent, "role", "") for agent in getattr(target, "agents", None) or ()],
        "tasks": [str(task.name or task.description) for task in getattr(target, "tasks", None) or ()],
    }
    return {kind: found for kind, found in names.items() if found}
