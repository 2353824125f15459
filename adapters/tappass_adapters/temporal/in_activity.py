"""Where every activity is decided: before it runs, on the worker that runs it."""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import Callable
from typing import Any

import msgspec
from temporalio import activity
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, CancelledError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from tappass.errors import TapPassConfigError, TapPassError
from tappass.ext import Executions, Opening, derived_id, step_of
from tappass_adapters.temporal.failures import Details, failure_of, refused_by_people
from tappass_adapters.temporal.headers import Told, told_in
from tappass_adapters.temporal.in_workflow import CLOSE, OPEN, WAIT

# What a workflow waits at its end for a plane that is away; it is tried three times.
_CLOSE_S = 5.0

_PENDING, _AGREED = "pending", ("approved", "redeemed")


class Desk:
    """The three activities of the plugin's own, which workflows schedule and policy is not asked about.

    Args:
        executions: the executions on the plugin's plane.
        agent: who acts.
    """

    def __init__(self, executions: Executions, agent: str) -> None:
        self.executions = executions
        self.agent = agent
        self._steps: dict[str, tuple[Any, Any]] = {}

    def activities(self) -> list[Callable[..., Any]]:
        """Return them, to be registered on a worker."""
        return [self.open, self.close, self.wait]

    async def open(self, session_id: str, parent: str) -> None:
        """Open an execution's session, before a child's is opened beneath it."""
        await self._failing(self.executions.session(self.opening(Told(session=session_id, parent=parent))))

    async def close(self, session_id: str, parent: str, status: str) -> None:
        """Close an execution's session."""
        opening = self.opening(Told(session=session_id, parent=parent))
        await self._failing(self.executions.close(opening, status, _CLOSE_S))

    async def wait(self, told: dict[str, Any]) -> None:
        """Return once people have agreed to a held call (its `Details`); fail for good once they never will."""
        held = msgspec.convert(told, Details)
        state = await self._failing(self.executions.stands(held.resume_token))
        if state == _PENDING:
            raise ApplicationError(
                "people have not decided yet", type="ApprovalPending", category=ApplicationErrorCategory.BENIGN
            )
        if state not in _AGREED:
            raise failure_of(refused_by_people(state, held))

    async def _failing(self, awaitable: Any) -> Any:
        try:
            return await awaitable
        except TapPassError as error:
            raise failure_of(error) from None

    def opening(self, told: Told) -> Opening:
        """Return the opening of the session of the execution that the running activity belongs to."""
        info = activity.info()
        metadata = {"workflow_id": info.workflow_id or "", "namespace": info.workflow_namespace or ""}
        return Opening(
            id=told.session,
            name=info.workflow_type or "",
            kind="workflow",
            agent=self.agent,
            parent=told.parent,
            metadata=metadata,
        )

    def step(self, function: Any, name: str) -> Any:
        """Return how an activity is shown to policy."""
        known, step = self._steps.get(name, (None, None))
        if known is not function:
            step = step_of(function, name, {RawValue: _shown})
            self._steps[name] = (function, step)
        return step


for _name, _function in ((OPEN, Desk.open), (CLOSE, Desk.close), (WAIT, Desk.wait)):
    activity.defn(name=_name)(_function)


def _shown(value: RawValue) -> Any:
    return activity.payload_converter().from_payload(value.payload)


class InActivity(ActivityInboundInterceptor):
    """Decides one attempt of one activity, in the session that its workflow carried to it."""

    def __init__(self, next: ActivityInboundInterceptor, desk: Desk) -> None:  # noqa: A002
        super().__init__(next)
        self._desk = desk

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        """Ask, then run the activity; a refusal is a failure that is not retried."""
        if getattr(input.fn, "__self__", None) is self._desk:
            return await super().execute_activity(input)
        try:
            return await self._governed(input)
        except TapPassError as error:
            raise failure_of(error) from None

    async def _governed(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        desk, info = self._desk, activity.info()
        told = told_in(input.headers)
        # An activity of a workflow that is not governed is a call outside any session.
        opening = desk.opening(told) if told.session else None
        step = desk.step(input.fn, info.activity_type)
        args, ran = list(input.args), False
        if isinstance(input.fn, types.MethodType) and not isinstance(step.function, types.MethodType):
            args.insert(0, input.fn.__self__)

        async def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal ran
            ran = True
            input.fn = functools.partial(step.function, **kwargs) if kwargs else step.function
            input.args = args
            return await self._ran(input)

        for last in (False, True):
            session = await desk.executions.session(opening, told.options)
            try:
                return await desk.executions.run(session, step, args, run, task_id=_task_id(info))
            except TapPassConfigError:
                # Another worker may have closed the session in between: an execution that was reset opens it again.
                if ran or last:
                    raise
        raise AssertionError("the last attempt returned or raised")

    async def _ran(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        try:
            return await super().execute_activity(input)
        except CancelledError as error:
            # A thread's: on record as what it is, not as a failure.
            raise asyncio.CancelledError(str(error)) from error
        except BaseException as error:
            if type(error).__name__ == "_CompleteAsyncError":
                raise TapPassConfigError(
                    f"`{activity.info().activity_type}` left its completion to another process, where nobody could "
                    "inspect its result; return the result from the activity"
                ) from None
            raise


def _task_id(info: activity.Info) -> str:
    """Return the id of one start of one attempt; after a reset, or on another worker, it is another question."""
    run = info.workflow_run_id or getattr(info, "activity_run_id", None) or ""
    named = (info.workflow_namespace or "", info.workflow_id or "", run, info.activity_id)
    return derived_id("tsk", "temporal", *named, str(info.attempt), info.started_time.isoformat())
