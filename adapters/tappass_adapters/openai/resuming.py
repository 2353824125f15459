"""Approvals that pause a run of the Agents SDK: noted on its interruptions, found again in its state."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from tappass.errors import ApprovalRequired, TapPassConfigError
from tappass_adapters.openai.agents import governed, original
from tappass_adapters.openai.runs import Run

# Where an approval stands on the tool call that waits for it: it goes with the state, through any serialisation.
NOTE = "tappass"
_PENDING = "pending"


def note(result: Any, paused: dict[str, ApprovalRequired]) -> None:
    """Put on a result's interruptions what they wait for."""
    for item in result.interruptions:
        error = paused.get(_field(item.raw_item, "call_id"))
        if error is None:
            continue
        told = {name: getattr(error, name) for name in ("approval_url", "resume_token", "expires_at")}
        if isinstance(item.raw_item, dict):
            item.raw_item = {**item.raw_item, NOTE: told}
        else:
            item.raw_item = item.raw_item.model_copy(update={NOTE: told})


def tokens_of(state: Any) -> dict[str, str]:
    """Return the resume tokens in a state that a run goes on from, by call id; of any other input, none."""
    return {call_id: told["resume_token"] for call_id, (_, told) in _noted(state).items()}


def _noted(state: Any) -> dict[str, tuple[Any, dict[str, str]]]:
    if not hasattr(state, "get_interruptions"):
        return {}
    found = {}
    for item in state.get_interruptions():
        told = _field(item.raw_item, NOTE)
        if isinstance(told, dict) and isinstance(told.get("resume_token"), str):
            found[str(_field(item.raw_item, "call_id"))] = (item, told)
    return found


def _field(raw: Any, name: str) -> Any:
    return raw.get(name) if isinstance(raw, dict) else getattr(raw, name, None)


def check(run: Run, state: Any) -> None:
    """Ask again where the caller lets a call go on to which people have not agreed yet; nothing of the run has begun.

    Raises:
        ApprovalRequired: they have not.
    """
    for told in _allowed(run, state):
        if run.session.plane.sync.wait(told["resume_token"], 0) == _PENDING:
            raise _still(run, told)


async def acheck(run: Run, state: Any) -> None:
    """Ask again where people have not agreed yet. The async twin of `check`."""
    for told in _allowed(run, state):
        if await run.session.plane.aio.wait(told["resume_token"], 0) == _PENDING:
            raise _still(run, told)


def _allowed(run: Run, state: Any) -> list[dict[str, str]]:
    if run.session.on_approval == "wait":
        return []
    return [told for item, told in _noted(state).values() if state._context.is_tool_approved(item.name, _call_id(item))]


def _call_id(item: Any) -> str:
    return str(_field(item.raw_item, "call_id"))


def _still(run: Run, told: dict[str, str]) -> ApprovalRequired:
    reason = "is still waiting for people to agree"
    error = ApprovalRequired(
        f"the run {reason}; nothing ran; see {told.get('approval_url', '')}",
        approval_url=told.get("approval_url", ""),
        resume_token=told["resume_token"],
        expires_at=told.get("expires_at", ""),
        reason=reason,
        correlation=run.session.correlation,
    )
    run.session.let_stand(error)
    return error


@contextlib.contextmanager
def governed_state(run: Run, state: Any) -> Iterator[None]:
    """Have a state that a run goes on from name governed agents, while it runs.

    Raises:
        TapPassConfigError: this version of the SDK keeps a state's agents where nobody knows.
    """
    if not hasattr(state, "get_interruptions"):
        yield
        return
    if not all(name in state.__dict__ for name in _AGENTS):
        raise TapPassConfigError("a run cannot go on from this state: openai-agents keeps its agents elsewhere now")
    _swap(state, lambda agent: governed(run, agent))
    try:
        yield
    finally:
        _swap(state, original)


_AGENTS = ("_current_agent", "_starting_agent")


def _swap(state: Any, to: Callable[[Any], Any]) -> None:
    """Have a state and all its items name other agents: the SDK knows them by their identity."""
    for name in _AGENTS:
        if (agent := getattr(state, name)) is not None:
            setattr(state, name, to(agent))
    answer = state._last_processed_response
    held = [state._generated_items, state._session_items]
    held += [getattr(one, "interruptions", ()) for one in (state._current_step, answer)]
    for item in itertools.chain(*held, getattr(answer, "new_items", ())):
        swap_agents(item, to)


def swap_agents(item: Any, to: Callable[[Any], Any]) -> None:
    """Put other agents into an item, or an event."""
    for name in ("agent", "source_agent", "target_agent", "new_agent"):
        if (agent := item.__dict__.get(name)) is not None and to(agent) is not agent:
            setattr(item, name, to(agent))
