"""The scripted model, speaking Gemini, with a script of its own for an agent."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import tests.adapters.scripted_gemini
from tests.adapters.scripted import Request, Say, ScriptedModel, Turn, calls

__all__ = ["Gemini", "calls", "says"]
assert tests.adapters.scripted_gemini


def says(*pieces: str) -> Say:
    return Say(pieces)


class Gemini(ScriptedModel):
    """Plays its turns in order; a script for one agent's requests lies in `by_agent`, by a word of its instruction."""

    def __init__(self) -> None:
        super().__init__()
        self.by_agent: dict[str, deque[Turn]] = {}

    def add(self, *turns: Turn) -> None:
        self.play(*turns)

    def told(self) -> str:
        """Return all that any model was sent, as JSON text."""
        return json.dumps([request.body for request in self.seen])

    def take(self, request: Request) -> Turn:
        instruction: Any = json.dumps(request.body.get("systemInstruction") or "")
        script = next((turns for word, turns in self.by_agent.items() if word in instruction), self.turns)
        with self._lock:
            self.seen.append(request)
            return script.popleft() if script else Say(("Done.",))
