"""What an application's OpenAPI document says of its governed actions: that they may be refused, and how."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tappass.ext import MEDIA_TYPE
from tappass_adapters.fastapi.routes import routes_in

_MARK = "__tappass_documented__"
_NAME = "TapPassProblem"
_TEXT = {"type": "string"}
_PROBLEM = {
    "title": _NAME,
    "description": "Problem details (RFC 9457) of a governed action: why it may not run, and where that is on record.",
    "type": "object",
    "properties": {
        **dict.fromkeys(("type", "title", "detail", "message", "reason"), _TEXT),
        "status": {"type": "integer"},
        "decision": {
            "type": "string",
            "description": "which way the plane said no; decides which further members there are",
            "enum": [
                "approval_required",
                "break_glass_active",
                "policy_block",
                "redaction_applied",
                "tool_integrity_violation",
                "trust_tier_denied",
            ],
        },
        **dict.fromkeys(("session_id", "task_id", "agent_uuid", "pipeline_uuid", "audit_url"), _TEXT),
        **dict.fromkeys(("blocked_by", "classification", "approval_url", "resume_token", "expires_at"), _TEXT),
    },
    "required": ["type", "title", "status", "detail"],
}
_RESPONSES = {"403": "Refused by policy", "428": "People have to agree first"}


def document_actions(app: Any) -> None:
    """Have a FastAPI application's OpenAPI document, and those of the ones it mounts, tell of governed actions.

    `TapPassMiddleware` does this by itself when the application starts; a program that only writes the document down
    calls it before `app.openapi()`. Anything that has no such document is left alone.

    Args:
        app: the application.
    """
    for route in getattr(app, "routes", ()):
        if hasattr(mounted := getattr(route, "app", None), "routes"):
            document_actions(mounted)
    original = getattr(app, "openapi", None)
    if not callable(original) or not hasattr(app, "routes") or hasattr(original, _MARK):
        return

    def openapi() -> dict[str, Any]:
        document: dict[str, Any] = original()
        for path, method in _governed(app):
            if (operation := document.get("paths", {}).get(path, {}).get(method)) is not None:
                document.setdefault("components", {}).setdefault("schemas", {})[_NAME] = _PROBLEM
                _describe(operation)
        return document

    setattr(openapi, _MARK, True)
    app.openapi = openapi  # as FastAPI's own documentation has it


def _describe(operation: dict[str, Any]) -> None:
    for status, description in _RESPONSES.items():
        response = operation.setdefault("responses", {}).setdefault(status, {"description": description})
        response.setdefault("content", {})[MEDIA_TYPE] = {"schema": {"$ref": f"#/components/schemas/{_NAME}"}}


def _governed(app: Any) -> Iterator[tuple[str, str]]:
    """Yield path and method of every operation that asks for an action."""
    for route in routes_in(app.routes):
        if _asks(getattr(route, "dependant", None)):
            for method in route.methods or ():
                yield route.path_format, method.lower()


def _asks(dependant: Any) -> bool:
    from tappass_adapters.fastapi.actions import ACTION

    if dependant is None:
        return False
    return hasattr(dependant.call, ACTION) or any(_asks(inner) for inner in dependant.dependencies)
