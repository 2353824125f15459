"""Google ADK: `guard_adk_agent` around a run, `govern([...])` for its tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from tappass.ext import GuardOptions, guarding, missing

if TYPE_CHECKING:
    from tappass_adapters.adk.guard import AdkGuard


def guard_adk_agent(target: Any = None, /, **asked: Unpack[GuardOptions]) -> AdkGuard:
    """Govern one run of Google ADK: every tool call and every model call in it, sub-agents' too.

        with guard_adk_agent(runner) as guarded:
            for event in guarded.run(user_id=..., session_id=..., new_message=...): ...

        run_async = guard_adk_agent()(runner.run_async)

    Args:
        target: to be entered: a `Runner`; an `App`, an agent or a workflow, around which a runner in memory is made.
            To be decorated: a runner's `run`, `run_async`, `run_live` or `run_debug`, or a function of yours that runs
            one. None, the default, makes the decorator.
        asked: see `GuardOptions`.

    Raises:
        TapPassConfigError: Google ADK is not installed, or this is nothing that runs an agent.
    """
    try:
        from tappass_adapters.adk.guard import AdkGuard
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "google":
            raise
        raise missing("google-adk", "guard_adk_agent()") from error
    guard: AdkGuard = guarding(AdkGuard, target, asked)
    return guard


# One object serves both; the second name says at the call which one is meant.
guard_adk_agent_async = guard_adk_agent
