"""A server that answers as a test says, without a network: what the client sends, and what it makes of any answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import httpx

KEY = "tp_planted_key_0123456789abcdef"
URL = "https://plane.example"
HEALTH = {"status": "ok", "version": "0.6.0", "storage": "sqlite", "agents": 1, "uptime_seconds": 1.0}

Answer = Callable[[dict[str, Any]], Any]


class Server:
    """Answers by path; a path's answer is JSON, an `httpx.Response`, an exception, or a function of the request's body.

    A list is answered one after the other, its last for ever.
    """

    def __init__(self) -> None:
        self.seen: list[httpx.Request] = []
        self.answers: dict[str, Any] = {
            "/health": HEALTH,
            "/sessions": opened,
            "/v1/govern": allowed,
            "/v1/endings": lambda entries: {"accepted": len(entries), "duplicates": 0},
        }
        self._lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else {}
        path = request.url.path
        with self._lock:
            self.seen.append(request)
            answer = (
                self.answers.get(path) if "/ending" not in path else self.answers.get(path, self.answers.get("scan"))
            )
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if callable(answer):
            answer = answer(body)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(404 if answer is None else 200, json=answer)

    def to(self, path: str) -> list[Any]:
        """Return the bodies that were sent to a path."""
        return [json.loads(request.content or b"{}") for request in self.seen if request.url.path == path]


def opened(asked: dict[str, Any]) -> dict[str, Any]:
    ids = {"session_id": asked["id"], "agent_uuid": "agent-1", "pipeline_uuid": "pipe-1"}
    return ids | {"audit_url": f"{URL}/sessions/{asked['id']}", "name": asked.get("name", "")}


def allowed(asked: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "outcome": "allow",
        "reason": "",
        "behavior_id": asked["behavior_id"],
        "pipeline_id": "pipe-1",
        "decided_at": "2026-01-31T09:30:00.000000Z",
        "session_id": asked["session_id"],
        "task_id": asked["behavior_id"],
        "agent_uuid": "agent-1",
        "pipeline_uuid": "pipe-1",
        "audit_url": f"{URL}/sessions/{asked['session_id']}",
    } | more


def problem(status: int, detail: str = "", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"status": status, "detail": detail}, headers=headers)
