"""Refusals as a server answers them: as a result that the model can read, as a protocol error, as a link to open."""

from __future__ import annotations

from typing import Any

import mcp.types as types

from tappass.errors import ApprovalRequired, TapPassConfigError, TapPassConnectionError, TapPassError
from tappass_adapters.mcp.requests import CALL
from tappass_adapters.mcp.ruling import beside, said

RESULT, ERROR = "result", "error"
# JSON-RPC leaves -32000 to -32099 to servers.
REFUSED, UNREACHABLE, UNSOUND = -32050, -32051, -32602


def elicits(session: Any) -> bool:
    """Tell whether the client can show its user a link."""
    # mcp 1 keeps the whole of what the client said of itself.
    capabilities = getattr(session, "client_capabilities", None) or getattr(
        getattr(session, "client_params", None), "capabilities", None
    )
    elicitation = getattr(capabilities, "elicitation", None)
    return getattr(elicitation, "url", None) is not None


def refused(refusals: str, method: str, error: TapPassError, elicits: bool) -> Any:
    """Answer a refusal: as a result that the model can read, or as a protocol error.

    Raises:
        MCPError: the answer, where it is to be one.
    """
    if elicits and isinstance(error, ApprovalRequired):
        raise _elicitation(error) from error
    if method == CALL and refusals == RESULT and not isinstance(error, TapPassConnectionError):
        fields = {"content": [{"type": "text", "text": said(error)}], "isError": True, "_meta": beside(error)}
        return types.CallToolResult.model_validate(fields)
    raise _protocol_error(error) from error


def _protocol_error(error: TapPassError) -> Exception:
    from mcp.shared import exceptions

    code = UNREACHABLE if isinstance(error, TapPassConnectionError) else REFUSED
    if isinstance(error, TapPassConfigError):
        code = UNSOUND
    kind = getattr(exceptions, "MCPError", None)
    if kind is not None:
        return kind(code=code, message=said(error), data=beside(error))  # type: ignore[no-any-return]
    return exceptions.McpError(types.ErrorData(code=code, message=said(error), data=beside(error)))  # type: ignore[attr-defined, no-any-return]


def _elicitation(error: ApprovalRequired) -> Exception:
    """Return the error that has a client show its user where people decide (MCP 2025-11-25, elicitation)."""
    from mcp.shared.exceptions import UrlElicitationRequiredError

    fields = {"mode": "url", "message": said(error), "url": error.approval_url, "elicitationId": error.task_id}
    made = UrlElicitationRequiredError([types.ElicitRequestURLParams.model_validate(fields)], said(error))
    # Whom nothing tells from others goes on by the token alone.
    made.error.data = {**(made.error.data or {}), **beside(error)}
    return made
