"""What happens at the client: the caller's session goes along, and refusals come back as what they are."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import Any, cast

from temporalio import client
from temporalio.converter import DataConverter

from tappass.ext import Executions, current_session
from tappass_adapters.temporal.failures import error_of
from tappass_adapters.temporal.headers import Told, telling


class AtClient(client.OutboundInterceptor):
    """Says in which session a workflow is started, signalled or updated; raises our errors for failures of ours."""

    def __init__(self, next: client.OutboundInterceptor, executions: Executions, converter: DataConverter) -> None:  # noqa: A002
        super().__init__(next)
        self._executions = executions
        self._converter = converter

    async def _here(self) -> str:
        """Return the id of the active session, "" if there is none on the plugin's plane."""
        session = current_session()
        return session.session_id if session is not None and await self._executions.owns(session) else ""

    async def start_workflow(self, input: client.StartWorkflowInput) -> client.WorkflowHandle[Any, Any]:  # noqa: A002
        """Start a workflow, whose session will be beneath the active one."""
        if here := await self._here():
            input.headers = telling(input.headers, Told(parent=here))
        return await super().start_workflow(input)

    async def signal_workflow(self, input: client.SignalWorkflowInput) -> None:  # noqa: A002
        """Signal a workflow, saying which session the signal came from."""
        if here := await self._here():
            input.headers = telling(input.headers, Told(sender=here))
        await super().signal_workflow(input)

    async def start_workflow_update(
        self,
        input: client.StartWorkflowUpdateInput,  # noqa: A002
    ) -> client.WorkflowUpdateHandle[Any]:
        """Update a workflow, saying which session the update came from."""
        if here := await self._here():
            input.headers = telling(input.headers, Told(sender=here))
        return _raising(await super().start_workflow_update(input))

    async def start_update_with_start_workflow(
        self,
        input: client.StartWorkflowUpdateWithStartInput,  # noqa: A002
    ) -> client.WorkflowUpdateHandle[Any]:
        """Start a workflow beneath the active session, and update it."""
        if here := await self._here():
            start, update = input.start_workflow_input, input.update_workflow_input
            start.headers = telling(start.headers, Told(parent=here))
            update.headers = telling(update.headers, Told(sender=here))
        return _raising(await super().start_update_with_start_workflow(input))

    def fetch_workflow_history_events(
        self,
        input: client.FetchWorkflowHistoryEventsInput,  # noqa: A002
    ) -> client.WorkflowHistoryEventAsyncIterator:
        """Read a history; where a result is waited for, a failure of ours is raised as our error.

        Every way to a result leads through here, also that of a handle made from an id.
        """
        events = super().fetch_workflow_history_events(input)
        closing = input.event_filter_type == client.WorkflowHistoryEventFilterType.CLOSE_EVENT
        if not (closing and input.wait_new_event):
            return events
        return cast("client.WorkflowHistoryEventAsyncIterator", self._read(events))

    async def _read(self, events: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for event in events:
            if event.HasField("workflow_execution_failed_event_attributes"):
                failed = event.workflow_execution_failed_event_attributes
                # One that names a new run is not the end: it was tried again.
                if not failed.new_execution_run_id:
                    cause = await self._converter.decode_failure(failed.failure)
                    if (error := error_of(cause)) is not None:
                        raise error from client.WorkflowFailureError(cause=cause)
            yield event


def _raising(handle: client.WorkflowUpdateHandle[Any]) -> client.WorkflowUpdateHandle[Any]:
    """Have a handle raise our errors for failures of ours."""
    kind: Any = type(handle)
    handle.__class__ = _raising_kind(kind)
    return handle


@functools.cache
def _raising_kind(kind: Any) -> Any:
    async def result(self: Any, **options: Any) -> Any:
        try:
            return await kind.result(self, **options)
        except client.WorkflowUpdateFailedError as failed:
            if (error := error_of(failed.cause)) is not None:
                raise error from failed
            raise

    return type(kind.__name__, (kind,), {"result": result})
