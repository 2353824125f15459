"""The sessions of delegated agents: sub-agents, workflow agents and agents that are tools."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tappass.errors import ApprovalRequired, TapPassConfigError
from tappass.ext import Child, Interception, Session, current_session

if TYPE_CHECKING:
    from tappass_adapters.adk.guard import AdkGuard


# Agents that ADK hands over to: a graph of LangGraph, an agent that Google runs.
_ELSEWHERE = frozenset({"LangGraphAgent", "ManagedAgent"})


@dataclass
class _Run:
    """One run of a delegated agent: its session, and the call that delegated to it where ADK makes none."""

    unit: Child
    task: Interception | None


class Agents:
    """Which session an agent's calls belong to. The root agent of the guarded runner has the guard's own."""

    def __init__(self, guard: AdkGuard) -> None:
        self._guard = guard
        self._open: dict[tuple[str, str, str], list[_Run]] = {}
        self._held: dict[str, ApprovalRequired] = {}

    async def begins(self, agent: Any, context: Any) -> None:
        """Open an agent's session; decide on a delegation that ADK makes without calling its tool.

        Raises:
            TapPassError: the delegation was refused, or nobody would see what the agent does.
        """
        if _ELSEWHERE & {kind.__name__ for kind in type(agent).__mro__}:
            self._guard.session.let_stand(error := _unseen(agent))
            raise error
        if context.invocation_id in self._guard.roots and agent.name == self._guard.root:
            return
        above, task = self._above(agent, context), None
        if (asked := _delegated(agent, context)) is not None:
            task = Interception(*asked, session=above, fixed=True)
            await task.abefore()
        unit = Child(above, agent.name, "agent")
        await unit.aopen()
        self._open.setdefault(_key(context._invocation_context), []).append(_Run(unit, task))

    async def ends(self, agent: Any, context: Any, error: Exception | None) -> None:
        """Close an agent's session."""
        runs = self._open.get(_key(context._invocation_context))
        if runs:
            await self._aend(runs.pop(), error)

    def session(self, context: Any) -> Session:
        """Return the session for what an agent does in this context."""
        return self.of(context._invocation_context)

    def of(self, invocation: Any) -> Session:
        """Return the session for what an agent does in this invocation."""
        runs = self._open.get(_key(invocation)) or self._named(invocation.invocation_id, _name(invocation))
        return runs[-1].unit.session if runs else self._guard.session

    def paused(self, session: Session, error: ApprovalRequired) -> None:
        """Note that a session ends as suspended."""
        self._held[session.session_id] = error

    def close(self, error: BaseException | None) -> None:
        """Close what is open still: runs that failed, were left, or paused."""
        for run in self._rest():
            run.unit.close(error or self._held.pop(run.unit.session.session_id, None))

    async def aclose(self, error: BaseException | None) -> None:
        """Close what is open still. The async twin of `close`."""
        for run in self._rest():
            await self._aend(run, error)

    async def _aend(self, run: _Run, error: BaseException | None) -> None:
        error = error or self._held.pop(run.unit.session.session_id, None)
        with contextlib.suppress(type(error)) if error is not None else contextlib.nullcontext():
            if run.task is not None:
                await run.task.aafter(error=error)
        await run.unit.aclose(error)

    def _rest(self) -> list[_Run]:
        rest = [run for runs in self._open.values() for run in runs]
        self._open.clear()
        return rest[::-1]

    def _named(self, invocation: str, name: str) -> list[_Run]:
        return [r for key, runs in self._open.items() if (key[0], key[2]) == (invocation, name) for r in runs]

    def _above(self, agent: Any, context: Any) -> Session:
        """Return the session of the agent that delegates."""
        above = agent.parent_agent
        while above is not None:
            if above.name == self._guard.root and context.invocation_id in self._guard.roots:
                return self._guard.session
            if runs := self._named(context.invocation_id, above.name):
                return runs[-1].unit.session
            above = above.parent_agent
        # An agent that is a tool: beneath the session in which the tool runs.
        active = current_session()
        return active if active is not None and active.plane is self._guard.session.plane else self._guard.session


def _unseen(agent: Any) -> TapPassConfigError:
    return TapPassConfigError(
        f"guard_adk_agent() does not see what the {type(agent).__name__} `{agent.name}` does; it was not run: guard it "
        "where it runs, and call it from a tool"
    )


def _name(invocation: Any) -> str:
    return getattr(invocation.agent, "name", None) or ""


def _key(invocation: Any) -> tuple[str, str, str]:
    return invocation.invocation_id, getattr(invocation, "branch", None) or "", _name(invocation)


def _delegated(agent: Any, context: Any) -> tuple[str, dict[str, Any]] | None:
    """Return the call by which a model delegated a task to this agent, None if this is no task.

    ADK hands a task's call to the agent itself; the tool that stands for it is never run.
    """
    call_id = getattr(context._invocation_context, "isolation_scope", None)
    if getattr(agent, "mode", None) != "task" or not call_id:
        return None
    for event in reversed(context._invocation_context.session.events):
        for call in event.get_function_calls():
            if call.id == call_id and call.name == agent.name:
                return call.name, dict(call.args or {})
    return None
