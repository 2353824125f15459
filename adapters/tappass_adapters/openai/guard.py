"""`guard_openai_run`: one run of the Agents SDK, or one loop around the official client, as a unit of work."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tappass.errors import TapPassConfigError
from tappass.ext import Guard, title
from tappass_adapters.openai.current import guards


class OpenAIGuard(Guard[Any]):
    """The guard of one run; see `guard_openai_run`."""

    guard = "guard_openai_run"
    kind = "run"
    entrypoints = frozenset({"run", "run_sync", "run_streamed"})

    governed = 0
    """How many runs and model calls came by here."""
    clients = 0
    """How many clients were handed out."""

    @contextlib.contextmanager
    def hooks(self) -> Iterator[None]:
        """Have every run of the Agents SDK in this context come by here."""
        if has_agents():
            from tappass_adapters.openai.runner import install

            install()
        before = guards.get()
        guards.set(self)
        try:
            yield
        finally:
            guards.set(before)

    def resumes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the approval that a run goes on from: one that its state waits for."""
        from tappass_adapters.openai import resuming

        for value in (*args, *kwargs.values()):
            if hasattr(value, "get_interruptions"):
                return next(iter(resuming.tokens_of(value).values()), "")
        return ""

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Hand over clients in governed form; the Agents SDK's objects are governed when a run meets them."""
        if self.resumes(args, kwargs):
            # Each call goes on by its own token; another that needs people to agree asks anew.
            self.session.resume_token = ""
        if not has_agents() and not any(map(is_client, (*args, *kwargs.values()))):
            raise TapPassConfigError(
                f"{self.guard}() found nothing to govern: no OpenAI client among the arguments, and openai-agents is "
                "not installed"
            )
        return tuple(map(self._governed, args)), {name: self._governed(value) for name, value in kwargs.items()}

    def _governed(self, value: Any) -> Any:
        if not is_client(value):
            return value
        from tappass_adapters.openai.client import governed_client

        self.clients += 1
        return governed_client(self, value)

    def checked(self) -> None:
        """Raise where the unit has ended: nothing is asked in it any more.

        Raises:
            TapPassConfigError: it has.
        """
        if self._over or (self._left and not self._streams):
            raise TapPassConfigError(f"the model was not asked: its {self.guard}() has ended")

    def __enter__(self) -> Any:
        guarded = super().__enter__()
        return self._governed(self.target) if is_client(self.target) else guarded

    async def __aenter__(self) -> Any:
        guarded = await super().__aenter__()
        return self._governed(self.target) if is_client(self.target) else guarded

    def _closing(self, error: BaseException | None) -> tuple[str, BaseException | None]:
        status, raised = super()._closing(error)
        if error is None and raised is None and self.entry is not None and not self.governed and not self.clients:
            raised = TapPassConfigError(
                f"nothing was governed in {title(self.entry)}(): it ran no agent, and was given no OpenAI client; "
                "what it did went past its guard"
            )
        return status, raised

    def hold(self) -> None:
        """Keep the session open for a streamed run."""
        self._streams += 1

    def released(self, error: BaseException | None) -> None:
        """Let go of it: the run has ended."""
        self._release(error)

    async def areleased(self, error: BaseException | None) -> None:
        """Let go of it. The async twin of `released`."""
        await self._arelease(error)


def is_client(value: Any) -> bool:
    """Tell whether this is a client of OpenAI's package; no other can exist before that is imported."""
    openai = sys.modules.get("openai")
    return openai is not None and isinstance(value, openai.OpenAI | openai.AsyncOpenAI)


@lru_cache(maxsize=1)
def has_agents() -> bool:
    """Tell whether the Agents SDK is installed, which has a module's name that anybody may use."""
    try:
        version("openai-agents")
    except PackageNotFoundError:
        return False
    return True
