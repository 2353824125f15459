"""Approvals in ADK's own terms: a tool call waits for a confirmation, whose request carries what resumes it."""

from __future__ import annotations

import threading
from typing import Any

import anyio

from tappass.errors import ApprovalRequired

MARK = "tappass"
REQUEST = "adk_request_confirmation"


def request(error: ApprovalRequired, tool_name: str, context: Any) -> dict[str, Any]:
    """Ask ADK to pause for an approval; return what stands for the tool's result until then."""
    payload = {"approval_url": error.approval_url, "resume_token": error.resume_token, "expires_at": error.expires_at}
    context.request_confirmation(
        hint=f"`{tool_name}` runs once people have agreed: {error.approval_url}", payload={MARK: payload}
    )
    # Else ADK has the model read this, which would call the tool again.
    context.actions.skip_summarization = True
    return {"error": "This tool call requires confirmation, please approve or reject."}


def pauses(guard_runner: Any, context: Any) -> bool:
    """Tell whether a run may pause here and be resumed: not when live, nor in an agent that is a tool.

    Nor does ADK ask again where the call was confirmed already; answered once more, it makes the call once more.
    """
    invocation = context._invocation_context
    return (
        bool(getattr(context, "function_call_id", ""))
        and context.tool_confirmation is None
        and invocation.live_request_queue is None
        and guard_runner is not None
        and invocation.session_service is guard_runner.session_service
    )


def token_of(context: Any) -> str:
    """Return the token of the approval that this tool call paused for, "" for none; from ADK's log, not its user."""
    if context.tool_confirmation is None:
        return ""
    return _tokens(context._invocation_context.session.events).get(context.function_call_id, "")


def _tokens(events: list[Any]) -> dict[str, str]:
    """Return the newest token for each tool call that paused, by the call's id."""
    tokens: dict[str, str] = {}
    for event in events:
        for call_id, asked in (event.actions.requested_tool_confirmations or {}).items():
            payload = asked.payload if isinstance(asked.payload, dict) else {}
            ours = payload.get(MARK)
            if isinstance(ours, dict) and isinstance(token := ours.get("resume_token"), str):
                tokens[call_id] = token
    return tokens


def answered(kwargs: dict[str, Any]) -> set[str]:
    """Return the ids of the confirmation requests that a run is begun with the answers to."""
    parts = getattr(kwargs.get("new_message"), "parts", None) or []
    return {p.function_response.id for p in parts if p.function_response and p.function_response.name == REQUEST}


async def token_awaited(runner: Any, kwargs: dict[str, Any]) -> str:
    """Return the token of the approval that a run of this runner goes on from, "" for none.

    Args:
        runner: whose session service knows the run that paused.
        kwargs: what the run is called with.
    """
    asked = answered(kwargs)
    session = await runner.session_service.get_session(
        app_name=runner.app_name, user_id=kwargs.get("user_id"), session_id=kwargs.get("session_id")
    )
    events = session.events if session is not None else []
    tokens = _tokens(events)
    for event in reversed(events):
        for call in event.get_function_calls():
            if call.id in asked and (original := (call.args or {}).get("originalFunctionCall")):
                return tokens.get(original.get("id"), "")
    return ""


def awaited_token(runner: Any, kwargs: dict[str, Any]) -> str:
    """Return the token of the approval that a run goes on from. The sync twin of `token_awaited`."""
    found: list[Any] = []

    def look() -> None:
        try:
            found.append(anyio.run(token_awaited, runner, kwargs))
        except BaseException as error:
            found.append(error)

    # As the runner's own `run` does it: the caller may have an event loop of its own.
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return str(found[0])
