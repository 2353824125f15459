"""Threads and runs, as a server that still has the Assistants API speaks: one thread, one assistant."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.adapters.scripted import ASKED, MODEL, PROTOCOLS, SAID, Calls, Reply, Request, ScriptedModel, Turn


def threads(model: ScriptedModel, request: Request, _turn: Turn) -> Reply:
    state = model.__dict__.setdefault("threads", {"messages": [], "runs": {}})
    path = request.path.partition("?")[0].removeprefix("/v1")
    if path.startswith("/assistants/"):
        return Reply(_assistant(state))
    if path == "/threads":
        return Reply({"id": "thread_1", "object": "thread", "created_at": 1, "metadata": {}})
    if path.endswith("/messages"):
        if request.body:
            state["messages"].append(_message(model, "user", request.body["content"], None))
            return Reply(state["messages"][-1])
        of = re.search(r"run_id=([^&]+)", request.path)
        found = [one for one in state["messages"] if of is None or one["run_id"] == of[1]]
        return Reply({"object": "list", "data": found, "has_more": False})
    if path.endswith("/runs"):
        run_id = f"run_{model.number()}"
        state["runs"][run_id] = _run(run_id, request.body.get("tools") or [])
        model.__dict__["asked"] = request
        return Reply(_next(model, state, run_id, request))
    run_id = path.split("/")[4]
    if path.endswith("/submit_tool_outputs"):
        return Reply(_next(model, state, run_id, request))
    return Reply(_turned(model, state, run_id))


def _next(model: ScriptedModel, state: Any, run_id: str, request: Request) -> dict[str, Any]:
    run = state["runs"][run_id] | {"status": "queued", "required_action": None}
    run["turn"] = model.take(request)
    state["runs"][run_id] = run
    return {name: value for name, value in run.items() if name != "turn"}


def _turned(model: ScriptedModel, state: Any, run_id: str) -> dict[str, Any]:
    run = state["runs"][run_id]
    turn = run.pop("turn", None)
    if isinstance(turn, Calls):
        calls = [
            {
                "id": f"call_{model.number()}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for name, arguments in turn.calls
        ]
        action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}
        run |= {"status": "requires_action", "required_action": action}
    elif turn is not None:
        state["messages"].append(_message(model, "assistant", turn.text, run_id))
        run |= {"status": "completed"}
    run["usage"] = {"prompt_tokens": ASKED, "completion_tokens": SAID, "total_tokens": ASKED + SAID}
    return dict(run)


def _assistant(state: Any) -> dict[str, Any]:
    return {
        "id": "asst_1",
        "object": "assistant",
        "created_at": 1,
        "model": MODEL,
        "instructions": "do it",
        "tools": state.get("tools", []),
        "metadata": {},
        "name": None,
        "description": None,
    }


def _message(model: ScriptedModel, role: str, text: str, run_id: str | None) -> dict[str, Any]:
    return {
        "id": f"msg_{model.number()}",
        "object": "thread.message",
        "created_at": 1,
        "thread_id": "thread_1",
        "role": role,
        "content": [{"type": "text", "text": {"value": text, "annotations": []}}],
        "run_id": run_id,
        "metadata": {},
        "attachments": [],
        "assistant_id": None,
    }


def _run(run_id: str, tools: list[Any]) -> dict[str, Any]:
    return {
        "id": run_id,
        "object": "thread.run",
        "created_at": 1,
        "thread_id": "thread_1",
        "assistant_id": "asst_1",
        "model": MODEL,
        "instructions": "",
        "tools": tools,
        "metadata": {},
        "parallel_tool_calls": True,
        "usage": None,
    }


PROTOCOLS.append((lambda path: "/threads" in path or "/assistants/" in path, threads))
