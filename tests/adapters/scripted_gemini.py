"""Gemini's protocol for the scripted model server: whole answers and streamed ones."""

from __future__ import annotations

from typing import Any

from tests.adapters.scripted import ASKED, MODEL, SAID, Calls, Reply, Request, ScriptedModel, Turn, answers


@answers(lambda path: path.endswith((":generateContent", ":streamGenerateContent")))
def gemini(model: ScriptedModel, request: Request, turn: Turn) -> Reply:
    if isinstance(turn, Calls):
        wanted = [{"functionCall": {"name": name, "args": arguments}} for name, arguments in turn.calls]
        pieces: list[list[dict[str, Any]]] = [wanted]
    else:
        pieces = [[{"text": piece}] for piece in turn.pieces]
    if "streamGenerateContent" in request.path:
        chunks = [_answer(piece, last=number == len(pieces) - 1) for number, piece in enumerate(pieces)]
        return Reply(events=[("", chunk) for chunk in chunks])
    return Reply(_answer([part for piece in pieces for part in piece], last=True))


def _answer(parts: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
    ends = {"finishReason": "STOP"} if last else {}
    return {
        "candidates": [{"index": 0, "content": {"role": "model", "parts": parts}, **ends}],
        "usageMetadata": {"promptTokenCount": ASKED, "candidatesTokenCount": SAID, "totalTokenCount": ASKED + SAID},
        "modelVersion": MODEL,
    }
