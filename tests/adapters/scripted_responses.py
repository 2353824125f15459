"""OpenAI's Responses API, as the scripted model speaks it."""

from __future__ import annotations

import json
from typing import Any

from tests.adapters.scripted import ASKED, MODEL, SAID, Calls, Reply, Request, Say, ScriptedModel, Turn, answers


@answers(lambda path: path.endswith("/responses"))
def responses(model: ScriptedModel, request: Request, turn: Turn) -> Reply:
    items = [_item(model, request, turn)] if isinstance(turn, Say) else [_call(model, *call) for call in turn.calls]
    answer = {
        "id": f"resp_{model.number()}",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": MODEL,
        "output": items,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": request.body.get("tools") or [],
        "usage": {
            "input_tokens": ASKED,
            "output_tokens": SAID,
            "total_tokens": ASKED + SAID,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }
    if not request.body.get("stream"):
        return Reply(answer)
    events = [{"type": "response.created", "response": answer | {"status": "in_progress", "output": []}}]
    for at, item in enumerate(items):
        events += _streamed(at, item, turn)
    events.append({"type": "response.completed", "response": answer})
    return Reply(events=[(event["type"], event | {"sequence_number": n}) for n, event in enumerate(events)])


def _call(model: ScriptedModel, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{model.number()}",
        "call_id": f"call_{model.number()}",
        "name": name,
        "arguments": json.dumps(arguments),
        "status": "completed",
    }


def _item(model: ScriptedModel, request: Request, turn: Say) -> dict[str, Any]:
    part = {"type": "output_text", "text": turn.text, "annotations": []}
    return {
        "type": "message",
        "id": f"msg_{model.number()}",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }


def _streamed(at: int, item: dict[str, Any], turn: Turn) -> list[dict[str, Any]]:
    here = {"output_index": at, "item_id": item["id"]}
    if isinstance(turn, Calls):
        text = item["arguments"]
        halves = (text[: len(text) // 2], text[len(text) // 2 :])
        kind = "response.function_call_arguments"
        return [
            _about("added", at, item | {"arguments": "", "status": "in_progress"}),
            *({"type": f"{kind}.delta", "delta": half} | here for half in halves),
            {"type": f"{kind}.done", "name": item["name"], "arguments": text} | here,
            _about("done", at, item),
        ]
    (part,) = item["content"]
    here["content_index"] = 0
    return [
        _about("added", at, item | {"content": [], "status": "in_progress"}),
        {"type": "response.content_part.added", "part": part | {"text": ""}} | here,
        *({"type": "response.output_text.delta", "delta": piece, "logprobs": []} | here for piece in turn.pieces),
        {"type": "response.output_text.done", "text": part["text"], "logprobs": []} | here,
        {"type": "response.content_part.done", "part": part} | here,
        _about("done", at, item),
    ]


def _about(what: str, at: int, item: dict[str, Any]) -> dict[str, Any]:
    return {"type": f"response.output_item.{what}", "output_index": at, "item": item}
