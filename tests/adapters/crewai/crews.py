"""Crews on a model server that answers by a script, on loopback."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from crewai import LLM, Agent, Crew, Task
from crewai.llms.base_llm import BaseLLM
from crewai.tools import tool as crew_tool
from pydantic import Field

Turn = Any  # text, a list of (tool, arguments), or a function of the request that returns one of them


class Script:
    """What the models say, by model name; `asked` is what they were asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[dict[str, Any]] = []
        self._turns: dict[str, list[Turn]] = {}
        self._lock = threading.Lock()
        self._ids = itertools.count(1)

    def says(self, *turns: Turn, model: str = "gpt-4o-mini") -> None:
        with self._lock:
            self._turns[model] = list(turns)

    def answer(self, body: dict[str, Any]) -> Turn:
        with self._lock:
            self.asked.append(body)
            left = self._turns.get(body["model"]) or ["the end"]
            turn = left.pop(0) if left else "the end"
        return turn(body) if callable(turn) else turn

    def heard(self, role: str = "tool", model: str = "gpt-4o-mini") -> list[str]:
        """Return what the model read last from somebody."""
        asked = [body for body in self.asked if body["model"] == model]
        return [str(message["content"]) for message in asked[-1]["messages"] if message["role"] == role]

    def message(self, turn: Turn) -> dict[str, Any]:
        if isinstance(turn, str):
            return {"role": "assistant", "content": turn}
        calls = [
            {"id": f"call_{next(self._ids)}", "type": "function", "function": {"name": n, "arguments": json.dumps(a)}}
            for n, a in turn
        ]
        return {"role": "assistant", "content": None, "tool_calls": calls}


def _handler(script: Callable[[], Script]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            message = script().message(script().answer(body))
            reason = "tool_calls" if message.get("tool_calls") else "stop"
            usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
            base = {"id": "chatcmpl-1", "created": 1, "model": body["model"]}
            if body.get("stream"):
                self._stream(base, message, reason, usage)
            else:
                choice = {"index": 0, "message": message, "finish_reason": reason}
                reply = {**base, "object": "chat.completion", "choices": [choice], "usage": usage}
                self._send("application/json", json.dumps(reply).encode())

        def _stream(self, base: Any, message: Any, reason: str, usage: Any) -> None:
            calls = message.get("tool_calls")
            words = (message["content"] or "").split(" ")
            deltas = (
                [{"tool_calls": [{"index": i, **call} for i, call in enumerate(calls)]}]
                if calls
                else [{"content": word + " "} for word in words]
            )
            chunks = [
                {**base, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": d, "finish_reason": f}]}
                for d, f in [*((d, None) for d in deltas), ({}, reason)]
            ]
            chunks.append({**base, "object": "chat.completion.chunk", "choices": [], "usage": usage})
            text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
            self._send("text/event-stream", text.encode())

        def _send(self, kind: str, content: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


@contextmanager
def scripted() -> Iterator[Script]:
    held: list[Script] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(lambda: held[0]))
    server.daemon_threads = True
    held.append(Script(f"http://127.0.0.1:{server.server_address[1]}/v1"))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield held[0]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Plain(BaseLLM):
    """A model that calls tools by writing so, as CrewAI's models without function calling do."""

    turns: list[Any] = Field(default_factory=list)
    asked: list[Any] = Field(default_factory=list)

    def call(self, messages: Any, *_: Any, **__: Any) -> str:
        self.asked.append(json.loads(json.dumps(messages, default=str)))
        return self.turns.pop(0) if self.turns else "Thought: done\nFinal Answer: the end"

    async def acall(self, messages: Any, *_: Any, **__: Any) -> str:
        return self.call(messages)

    def supports_function_calling(self) -> bool:
        return False


def acts(name: str, arguments: dict[str, Any]) -> str:
    """Return how a plain model calls a tool."""
    return f"Thought: go\nAction: {name}\nAction Input: {json.dumps(arguments)}\n"


class Ran(list[Any]):
    """What the tools did; `tools` do it."""

    def tools(self, **options: Any) -> list[Any]:
        @crew_tool("send")
        def send(to: str, text: str = "hello") -> str:
            """Send a message."""
            self.append(("send", to, text))
            return f"sent to {to}"

        @crew_tool("pay")
        def pay(amount: int) -> str:
            """Pay somebody."""
            self.append(("pay", amount))
            return f"paid {amount}"

        @crew_tool("look")
        def look(text: str, inside: dict[str, Any] | None = None) -> str:
            """Look something up."""
            self.append(("look", text, inside))
            return "found bob@acme.com"

        @crew_tool("fail")
        def fail(why: str) -> str:
            """Fail."""
            self.append(("fail", why))
            raise ValueError(why)

        return [send, pay, look, fail]


def llm(script: Script, model: str = "gpt-4o-mini", **options: Any) -> Any:
    return LLM(model=f"openai/{model}", base_url=script.url, api_key="x", **options)


def agent(model: Any, tools: list[Any], role: str = "clerk", **options: Any) -> Agent:
    return Agent(role=role, goal="g", backstory="b", tools=tools, llm=model, verbose=False, **options)


def crew_of(model: Any, tools: list[Any], name: str = "office", **options: Any) -> Crew:
    clerk = agent(model, tools)
    task = Task(name="letters", description="do it", expected_output="done", agent=clerk)
    return Crew(name=name, agents=[clerk], tasks=[task], verbose=False, **options)
