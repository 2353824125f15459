"""What happens in workflow code: headers, durable waiting, the close. No I/O and no decision; commands only."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn, TypeAlias, TypeVar, cast

import msgspec
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, FailureError
from temporalio.worker import (
    ContinueAsNewInput,
    ExecuteWorkflowInput,
    SignalChildWorkflowInput,
    SignalExternalWorkflowInput,
    StartActivityInput,
    StartChildWorkflowInput,
    StartLocalActivityInput,
    WorkflowInboundInterceptor,
    WorkflowOutboundInterceptor,
)

from tappass_adapters.temporal.failures import Details, details_of
from tappass_adapters.temporal.headers import Told, telling, told_in, told_of
from tappass_adapters.temporal.marking import Mark, governing, mark_of

AnyActivity: TypeAlias = "StartActivityInput | StartLocalActivityInput"
I = TypeVar("I", StartActivityInput, StartLocalActivityInput)  # noqa: E741

# Every command below is behind this one; a history without it replays as it was.
PATCH = "tappass-1"
WAITING = "tappass_waiting"
OPEN, CLOSE, WAIT = "tappass_open", "tappass_close", "tappass_wait"
OURS = (OPEN, CLOSE, WAIT)

# Longer than the activities themselves take: a local activity that times out leaves its worker in disorder.
_TRY_S = timedelta(seconds=60)
_CLOSING = RetryPolicy(maximum_attempts=3)


class InWorkflow(WorkflowInboundInterceptor):
    """Stands around a workflow's `run`.

    Attributes:
        poll_s: how often, at most, a held call is looked at again, in seconds.
    """

    poll_s = 60.0

    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        """Put our outbound interceptor before the others."""
        self._out = OutOfWorkflow(outbound, self.poll_s)
        super().init(self._out)

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:  # noqa: A002
        """Run the workflow; when it ends, close its session by a local activity.

        What ends only the task (a bug, which is tried again) closes nothing, nor does continuing as new.
        """
        governing.set(True)
        if mark_of(input.type) is None:
            return await super().execute_workflow(input)
        workflow.set_query_handler(WAITING, self._out.waiting)
        if not workflow.patched(PATCH):
            return await super().execute_workflow(input)
        try:
            result = await super().execute_workflow(input)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) or workflow.is_failure_exception(error):
                await self._out.close(_status_of(error))
            raise
        await self._out.close("completed")
        return result


def _status_of(error: BaseException | None) -> str:
    while isinstance(error, ActivityError | ChildWorkflowError):
        error = error.cause
    details = details_of(error)
    return "suspended" if details is not None and details.tappass == "ApprovalRequired" else "failed"


class OutOfWorkflow(WorkflowOutboundInterceptor):
    """Carries the session to whatever a workflow starts, and waits for people before it starts a held call again."""

    def __init__(self, next: WorkflowOutboundInterceptor, poll_s: float) -> None:  # noqa: A002
        super().__init__(next)
        self._poll_s = poll_s
        self._held: dict[int, dict[str, str]] = {}
        self._opened = False
        self._numbers = 0
        self._running = 0
        self._suspending: asyncio.Task[None] | None = None

    # Queries.

    def waiting(self) -> list[dict[str, str]]:
        """Answer the query `tappass_waiting`: what waits for people, the oldest first. No arguments are shown."""
        return [self._held[number] for number in sorted(self._held)]

    # What the workflow starts.

    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:  # noqa: A002
        """Start an activity in the execution's session."""
        return self._start(input, self.next.start_activity)

    def start_local_activity(self, input: StartLocalActivityInput) -> workflow.ActivityHandle[Any]:  # noqa: A002
        """Start a local activity in the execution's session."""
        return self._start(input, self.next.start_local_activity)

    async def start_child_workflow(
        self,
        input: StartChildWorkflowInput,  # noqa: A002
    ) -> workflow.ChildWorkflowHandle[Any, Any]:
        """Start a child, whose session will be beneath this one: which is opened first, if nothing has yet."""
        if (told := self._told()) is not None and workflow.patched(PATCH):
            if not self._opened:
                await self._own(OPEN, told, [], self._patience())
            self._opened = True
            input.headers = telling(input.headers, Told(parent=told.session))
        return await super().start_child_workflow(input)

    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:  # noqa: A002
        """Go on as new, beneath the same session as before."""
        if parent := told_in(workflow.info().headers).parent:
            input.headers = telling(input.headers, Told(parent=parent))
        super().continue_as_new(input)
        raise AssertionError("continuing as new never returns")

    async def signal_child_workflow(self, input: SignalChildWorkflowInput) -> None:  # noqa: A002
        """Signal a child, saying which session the signal came from."""
        if (told := self._told()) is not None:
            input.headers = telling(input.headers, Told(sender=told.session))
        await super().signal_child_workflow(input)

    async def signal_external_workflow(self, input: SignalExternalWorkflowInput) -> None:  # noqa: A002
        """Signal another workflow, saying which session the signal came from."""
        if (told := self._told()) is not None:
            input.headers = telling(input.headers, Told(sender=told.session))
        await super().signal_external_workflow(input)

    # Held calls.

    def _told(self) -> Told | None:
        mark: Mark | None = mark_of(type(workflow.instance()))
        return None if mark is None else told_of(workflow.info(), mark)

    def _start(self, input: I, start: Callable[[I], workflow.ActivityHandle[Any]]) -> workflow.ActivityHandle[Any]:  # noqa: A002
        told = self._told()
        if told is None or input.activity in OURS:
            return start(input)
        input.headers = telling(input.headers, told)
        if not workflow.patched(PATCH):
            return start(input)
        self._running += 1
        again = dataclasses.replace(input)
        first = start(input) if self._suspending is None else None
        # By the loop, not as a handle of our own: the workflow's end must find every task.
        task = asyncio.create_task(self._until_it_ran(first, again, start), name=f"activity: {input.activity}")
        task.add_done_callback(lambda ended: self._ended(ended, first))
        return cast("workflow.ActivityHandle[Any]", task)

    def _ended(self, task: asyncio.Task[Any], first: workflow.ActivityHandle[Any] | None) -> None:
        self._running -= 1
        # Cancelled before it had begun, it never passed that on.
        if task.cancelled() and first is not None and not first.done():
            first.cancel()

    async def _until_it_ran(
        self,
        handle: workflow.ActivityHandle[Any] | None,
        again: I,
        start: Callable[[I], workflow.ActivityHandle[Any]],
    ) -> Any:
        while True:
            if handle is None:
                await self._suspended()
                handle = start(dataclasses.replace(again))
            try:
                return await handle
            except (ActivityError, ApplicationError) as error:
                # A local activity's failure comes bare.
                held = details_of(error.cause if isinstance(error, ActivityError) else error)
                if held is None or held.tappass != "ApprovalRequired":
                    raise
                refused = error
            handle = None
            self._running -= 1
            try:
                await self._people(again.activity, held, refused)
            finally:
                self._running += 1

    async def _people(self, name: str, held: Details, refused: ActivityError | ApplicationError) -> None:
        """Wait until people have agreed.

        Raises:
            ActivityError: they have not, or the workflow was cancelled; it is the held activity's.
            ApplicationError: the same, of a local activity.
        """
        self._numbers += 1
        number = self._numbers
        self._held[number] = {
            "name": name,
            "approval_url": held.approval_url,
            "expires_at": held.expires_at,
        }
        try:
            if self._running == 0 and self._suspending is None and (told := self._told()) is not None:
                self._suspending = asyncio.create_task(self._closed(told, "suspended"))
            await self._suspended()
            # Its attempts leave no events, and hold no slot between them: it may wait for as long as it takes.
            await workflow.execute_activity(
                WAIT,
                msgspec.to_builtins(held),
                start_to_close_timeout=timedelta(seconds=60),
                retry_policy=self._patience(),
            )
        except ActivityError as error:
            if isinstance(refused, ActivityError):
                raise _of_activity(refused, error) from error.cause
            raise error.cause or error from None
        finally:
            del self._held[number]

    def _patience(self) -> RetryPolicy:
        """Return how often something is tried that may take days."""
        return RetryPolicy(
            initial_interval=timedelta(seconds=min(0.5, self._poll_s)),
            backoff_coefficient=1.5,
            maximum_interval=timedelta(seconds=self._poll_s),
        )

    # The session's own commands.

    async def close(self, status: str) -> None:
        """Close the execution's session; what becomes of that changes nothing in how the workflow ends."""
        told = self._told()
        if told is None:
            return
        closing = asyncio.create_task(self._closed(told, status))
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(closing)

    async def _suspended(self) -> None:
        """Wait until the session is suspended, if it is about to be: nothing may begin in it meanwhile."""
        if self._suspending is not None:
            await asyncio.shield(self._suspending)

    async def _closed(self, told: Told, status: str) -> None:
        before, own = self._suspending, asyncio.current_task()
        try:
            if before is not None and before is not own:
                await asyncio.shield(before)
            await self._own(CLOSE, told, [status], _CLOSING)
        except FailureError:
            workflow.logger.warning("the session %s could not be closed; it stays open in the log", told.session)
        finally:
            if self._suspending is own:
                self._suspending = None

    async def _own(self, activity: str, told: Told, args: list[str], retry: RetryPolicy) -> None:
        await workflow.execute_local_activity(
            activity,
            args=[told.session, told.parent, *args],
            start_to_close_timeout=_TRY_S,
            retry_policy=retry,
        )


def _of_activity(refused: ActivityError, error: ActivityError) -> ActivityError:
    """Return what the wait ended with, as the held activity's own error."""
    return ActivityError(
        refused.message,
        scheduled_event_id=refused.scheduled_event_id,
        started_event_id=refused.started_event_id,
        identity=refused.identity,
        activity_type=refused.activity_type,
        activity_id=refused.activity_id,
        retry_state=error.retry_state,
    )
