"""The runner that every `Runner.run` comes to, wherever it is called: inside a guard, its runs are governed."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Any

from tappass.errors import TapPassConfigError
from tappass.ext import Child, Session, current_session
from tappass_adapters.openai import resuming
from tappass_adapters.openai.agents import NO_HOOKS, begins, governed, original, seeing_originals
from tappass_adapters.openai.current import current_run, guards
from tappass_adapters.openai.models import governed_model, governed_provider
from tappass_adapters.openai.results import Watched, aleave, bring_back, finished, held, leave
from tappass_adapters.openai.runs import Run

if TYPE_CHECKING:
    from tappass_adapters.openai.guard import OpenAIGuard

_lock = threading.Lock()


def install() -> None:
    """Have every run of this process come by here; whoever made them until now still does.

    It stays: outside a guard it only hands on.
    """
    from agents.run import get_default_agent_runner, set_default_agent_runner

    if isinstance(get_default_agent_runner(), GovernedRunner):
        return
    with _lock:
        runner: Any = get_default_agent_runner()
        if not isinstance(runner, GovernedRunner):
            made: Any = GovernedRunner(runner)
            set_default_agent_runner(made)


class GovernedRunner:
    """What `agents.run.set_default_agent_runner` was given; `inner` is what was there before."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def run(self, starting_agent: Any, input: Any, **kwargs: Any) -> Any:  # noqa: A002
        """Run an agent, governed inside a guard."""
        guard = guards.get()
        if guard is None or begins(starting_agent):
            return await self.inner.run(_as_given(guard, starting_agent), input, **kwargs)
        child = _child(guard, starting_agent)
        run = Run(guard, await child.aopen() if child is not None else _session(guard), resuming.tokens_of(input))
        try:
            await resuming.acheck(run, input)
            options, provider = _options(run, kwargs)
            with run.active(), resuming.governed_state(run, input):
                result = await self.inner.run(governed(run, starting_agent), input, **options)
            finished(run, result)
        except BaseException as error:
            ours = bring_back(run, error)
            await aleave(run, child, ours)
            raise ours from (error if ours is not error else error.__cause__)
        await aleave(run, child, held(run))
        if provider is not None:
            await provider.aclose()
        return result

    def run_sync(self, starting_agent: Any, input: Any, **kwargs: Any) -> Any:  # noqa: A002
        """Run an agent on an event loop of its own, governed inside a guard."""
        guard = guards.get()
        if guard is None or begins(starting_agent):
            return self.inner.run_sync(_as_given(guard, starting_agent), input, **kwargs)
        child = _child(guard, starting_agent)
        run = Run(guard, child.open() if child is not None else _session(guard), resuming.tokens_of(input))
        try:
            resuming.check(run, input)
            with run.active(), resuming.governed_state(run, input):
                result = self.inner.run_sync(governed(run, starting_agent), input, **_options(run, kwargs)[0])
            finished(run, result)
        except BaseException as error:
            ours = bring_back(run, error)
            leave(run, child, ours)
            raise ours from (error if ours is not error else error.__cause__)
        leave(run, child, held(run))
        return result

    def run_streamed(self, starting_agent: Any, input: Any, **kwargs: Any) -> Any:  # noqa: A002
        """Start a run that is streamed; inside a guard it is governed until it ends, however it is read."""
        guard = guards.get()
        if guard is None or begins(starting_agent):
            return self.inner.run_streamed(_as_given(guard, starting_agent), input, **kwargs)
        child = _child(guard, starting_agent)
        run = Run(guard, child.open() if child is not None else _session(guard), resuming.tokens_of(input))
        state = resuming.governed_state(run, input)
        try:
            resuming.check(run, input)
            options, _ = _options(run, kwargs)
            with run.active():
                state.__enter__()
                result = self.inner.run_streamed(governed(run, starting_agent), input, **options)
        except BaseException as error:
            leave(run, child, error)
            raise
        return Watched(run, child, state, result).result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _as_given(guard: OpenAIGuard | None, agent: Any) -> Any:
    return agent if guard is not None else original(agent)


def _session(guard: OpenAIGuard) -> Session:
    return current_session() or guard.session


def _child(guard: OpenAIGuard, agent: Any) -> Child | None:
    """Return the unit of a run inside another's tool, None for a run of the guard's own."""
    guard.governed += 1
    around = current_run()
    if around is None or around.guard is not guard:
        return None
    return Child(_session(guard), str(getattr(agent, "name", "")), "agent")


def _options(run: Run, kwargs: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return a run's options in governed form, and the model provider if it was made here."""
    from agents import RunConfig

    given, made = kwargs.get("run_config"), None
    if isinstance(given, dict):
        if "model_provider" not in given:
            made = RunConfig().model_provider
        provider, model = given.get("model_provider", made), given.get("model")
        config: Any = {**given, "model_provider": governed_provider(provider), "model": governed_model(model)}
    else:
        if given is None:
            given = RunConfig()
            made = given.model_provider
        if getattr(given, "sandbox", None) is not None:
            raise TapPassConfigError("a run in a sandbox cannot be governed: what runs there is not seen")
        provider, model = governed_provider(given.model_provider), governed_model(given.model)
        config = dataclasses.replace(given, model_provider=provider, model=model)
    hooks = seeing_originals(kwargs.get("hooks") or NO_HOOKS, "RunHooksBase")
    return {**kwargs, "run_config": config, "hooks": hooks}, made if hasattr(made, "aclose") else None
