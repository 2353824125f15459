"""How a run ends: its result with the user's own agents, its sessions closed, what was refused brought back."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tappass.errors import ApprovalRequired, TapPassError
from tappass.ext import Child
from tappass_adapters.openai import resuming
from tappass_adapters.openai.agents import original
from tappass_adapters.openai.current import current_run
from tappass_adapters.openai.runs import Run


def bring_back(run: Run, error: BaseException) -> BaseException:
    """Return the refusal that a run ended with, whatever the SDK made of it; any other error as it is."""
    from agents.exceptions import AgentsException

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TapPassError):
            return cause
        cause = cause.__cause__
    stands = run.session.standing
    return stands if isinstance(error, AgentsException) and stands is not None else error


def finished(run: Run, result: Any) -> None:
    """Give a result back the user's own agents, and its interruptions the approvals that they wait for.

    Raises:
        TapPassError: something was refused that the run went on without, although nobody told the model.
    """
    resuming.note(result, run.paused)
    for name in ("_last_agent", "current_agent", "_starting_agent_for_state"):
        if (agent := result.__dict__.get(name)) is not None:
            setattr(result, name, original(agent))
    for item in result.new_items:
        resuming.swap_agents(item, original)
    # The agents of a run live as long as its result: the SDK refers to some weakly.
    result.__dict__["_tappass_run"] = run
    stands = run.session.standing
    if stands is not None and current_run() is None and run.guard.session.on_block != "tell":
        raise stands


def held(run: Run) -> ApprovalRequired | None:
    """Return an approval that a run which ended waits for, None for none."""
    return next(iter(run.paused.values()), None)


async def aleave(run: Run, child: Child | None, error: BaseException | None) -> None:
    """Close the sessions beneath the guard's."""
    run.answered.clear()  # decided and never made: rejected by a guardrail, or by the user
    await run.aleave(error)
    if child is not None:
        await child.aclose(error)


def leave(run: Run, child: Child | None, error: BaseException | None) -> None:
    """Close the sessions beneath the guard's. The sync twin of `aleave`."""
    run.answered.clear()
    run.leave(error)
    if child is not None:
        child.close(error)


class Watched:
    """A streamed run: its sessions stay open until it ends, whether or not somebody reads its events to the end.

    Attributes:
        result: the SDK's result, whose events come by here.
    """

    def __init__(self, run: Run, child: Child | None, state: Any, result: Any) -> None:
        self.result = result
        self._run, self._child, self._state = run, child, state
        self._events = result.stream_events
        self._read = self._over = False
        run.guard.hold()
        result.stream_events = self._governed
        result.__dict__["_tappass_run"] = run
        result.run_loop_task.add_done_callback(self._done)

    async def _governed(self) -> AsyncIterator[Any]:
        self._read = True
        error: BaseException | None = None
        try:
            async with contextlib.aclosing(self._events()) as events:
                async for event in events:
                    for named in (getattr(event, "item", event), event):
                        resuming.swap_agents(named, original)
                    yield event
            finished(self._run, self.result)
        except GeneratorExit:
            raise
        except BaseException as raised:
            error = bring_back(self._run, raised)
            raise error from (raised if error is not raised else raised.__cause__)
        finally:
            await self._aend(error)

    def _done(self, task: Any) -> None:
        """See to the end where nobody reads the events; not on the event loop, which has to go on."""
        if not self._read:
            error = None if task.cancelled() else task.exception()
            task.get_loop().run_in_executor(None, self._end, error)

    async def _aend(self, error: BaseException | None) -> None:
        if self._begun_end():
            await aleave(self._run, self._child, error or held(self._run))
            await self._run.guard.areleased(error)

    def _end(self, error: BaseException | None) -> None:
        if self._begun_end():
            leave(self._run, self._child, error or held(self._run))
            self._run.guard.released(error)

    def _begun_end(self) -> bool:
        before, self._over = self._over, True
        if not before:
            self._state.__exit__(None, None, None)
        return not before
