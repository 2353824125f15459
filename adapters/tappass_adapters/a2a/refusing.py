"""What is answered where the plane says no: errors of the protocol, and tasks that wait for people."""

from __future__ import annotations

import json
from typing import Any

from a2a.types import Message, Part, Role, Task, TaskState, TaskStatus, TaskStatusUpdateEvent
from a2a.utils.errors import InternalError, InvalidRequestError, UnsupportedOperationError

from tappass import CorrelationRefused
from tappass.errors import ApprovalRequired, TapPassConnectionError, TapPassError
from tappass.ext import EXTENSION, answer_to


def protocol_error(error: TapPassError) -> Any:
    """Return the protocol's error for one of ours, None for what is nobody's to tell the caller.

    Its data are the texts of the problem (RFC 9457), of which `code` names it for programs.
    """
    answer = answer_to(error)
    if answer is None:
        return None
    data = {key: value for key, value in json.loads(answer.body).items() if isinstance(value, str)}
    data["code"] = answer.code
    if isinstance(error, CorrelationRefused):
        return InvalidRequestError(data["detail"], data)
    if isinstance(error, TapPassConnectionError):
        return InternalError(data["detail"], data)
    return UnsupportedOperationError(data["message"], data)


async def wait_for_people(held: ApprovalRequired, context: Any, queue: Any, *, begun: bool) -> None:
    """Put a task into the state in which its caller has something to do: have people agree, and ask again.

    Args:
        held: what waits.
        context: the request's context.
        queue: where its events go.
        begun: the task exists.
    """
    data = protocol_error(held).data
    text = f"People have to agree first: {held.approval_url}"
    message = Message(
        message_id=f"{context.task_id}-approval",
        role=Role.ROLE_AGENT,
        parts=[Part(text=text)],
        context_id=context.context_id,
        task_id=context.task_id,
        extensions=[EXTENSION],
    )
    message.metadata.update({EXTENSION: data})
    status = TaskStatus(state=TaskState.TASK_STATE_INPUT_REQUIRED, message=message)
    ids = {"context_id": context.context_id, "status": status}
    if begun:
        await queue.enqueue_event(TaskStatusUpdateEvent(task_id=context.task_id, **ids))
    else:
        await queue.enqueue_event(Task(id=context.task_id, history=[context.message], **ids))
