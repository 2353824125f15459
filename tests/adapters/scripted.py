"""A scripted model server on loopback: one script, whatever protocol the framework speaks.

A protocol is an entry in `PROTOCOLS`: which paths it answers, and how a turn looks there. Modules beside this one add
theirs: `scripted_responses.py`, `scripted_gemini.py`.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "scripted-1"
ASKED, SAID = 7, 3
"""The tokens that every answer is said to have taken."""


@dataclass(frozen=True)
class Calls:
    """A turn in which the model asks for tools: (name, arguments) pairs, all at once."""

    calls: tuple[tuple[str, dict[str, Any]], ...]


@dataclass(frozen=True)
class Say:
    """A turn in which the model answers, in these pieces where it streams."""

    pieces: tuple[str, ...] = ("all ", "done")

    @property
    def text(self) -> str:
        return "".join(self.pieces)


Turn = Calls | Say


def calls(*wanted: tuple[str, dict[str, Any]]) -> Calls:
    return Calls(wanted)


@dataclass
class Request:
    """What was asked of the model."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """The whole request as JSON text."""
        return json.dumps(self.body, ensure_ascii=False)


@dataclass
class Reply:
    """JSON, or server-sent events: (event name, data) pairs."""

    body: Any = None
    events: list[tuple[str, Any]] = field(default_factory=list)
    done: bool = False
    """End the events with `[DONE]`."""


Renderer = Callable[["ScriptedModel", Request, Turn], Reply]
PROTOCOLS: list[tuple[Callable[[str], bool], Renderer]] = []


class ScriptedModel:
    """Plays its turns in order, then says `Say()` for ever; `seen` are the requests."""

    def __init__(self) -> None:
        self.turns: deque[Turn] = deque()
        self.seen: list[Request] = []
        self._lock = threading.Lock()
        self._numbers = iter(range(1, 1_000_000))
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def play(self, *turns: Turn) -> None:
        """Put turns at the end of the script."""
        self.turns.extend(turns)

    def number(self) -> int:
        """Return a number that was not used before, for ids."""
        return next(self._numbers)

    def take(self, request: Request) -> Turn:
        with self._lock:
            self.seen.append(request)
            return self.turns.popleft() if self.turns else Say()

    def __enter__(self) -> ScriptedModel:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of callers who hang up."""


def _handler(model: ScriptedModel) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.path, headers, json.loads(raw) if raw.strip() else {})
            path = self.path.partition("?")[0]
            render = next((made for matches, made in PROTOCOLS if matches(path)), None)
            if render is None:
                return self._json(404, {"error": {"message": f"nothing is scripted for {path}"}})
            try:
                reply = render(model, request, None)  # type: ignore[arg-type]
                self._events(reply) if reply.events else self._json(200, reply.body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _json(self, status: int, body: Any) -> None:
            self._head(status, "application/json", str(len(data := json.dumps(body).encode())))
            self.wfile.write(data)

        def _events(self, reply: Reply) -> None:
            self._head(200, "text/event-stream", "")
            self.close_connection = True
            for name, data in reply.events:
                head = f"event: {name}\n" if name else ""
                self.wfile.write(f"{head}data: {json.dumps(data)}\n\n".encode())
                self.wfile.flush()
            if reply.done:
                self.wfile.write(b"data: [DONE]\n\n")

        def _head(self, status: int, kind: str, length: str) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header(*(("content-length", length) if length else ("connection", "close")))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def answers(matches: Callable[[str], bool]) -> Callable[[Renderer], Renderer]:
    """Register how turns look at the paths that match; the renderer is given the next turn of the script."""

    def register(render: Renderer) -> Renderer:
        def taking(model: ScriptedModel, request: Request, _turn: Turn) -> Reply:
            return render(model, request, model.take(request))

        PROTOCOLS.append((matches, taking))
        return render

    return register


# OpenAI's chat completions.


@answers(lambda path: path.endswith("/chat/completions"))
def chat_completions(model: ScriptedModel, request: Request, turn: Turn) -> Reply:
    base = {"id": f"chatcmpl-{model.number()}", "created": 1, "model": MODEL}
    usage = {"prompt_tokens": ASKED, "completion_tokens": SAID, "total_tokens": ASKED + SAID}
    wanted = [
        {
            "id": f"call_{model.number()}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for name, arguments in (turn.calls if isinstance(turn, Calls) else ())
    ]
    ends = "tool_calls" if wanted else "stop"
    if not request.body.get("stream"):
        message = {"role": "assistant", "content": turn.text if isinstance(turn, Say) else None}
        message |= {"tool_calls": wanted} if wanted else {}
        choice = {"index": 0, "message": message, "finish_reason": ends}
        return Reply(base | {"object": "chat.completion", "choices": [choice], "usage": usage})
    events = [("", base | {"object": "chat.completion.chunk"} | chunk) for chunk in _chunks(turn, wanted, ends)]
    events.append(("", base | {"object": "chat.completion.chunk", "choices": [], "usage": usage}))
    return Reply(events=events, done=True)


def _chunks(turn: Turn, wanted: list[dict[str, Any]], ends: str) -> Iterator[dict[str, Any]]:
    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}

    yield chunk({"role": "assistant", "content": ""})
    for index, call in enumerate(wanted):
        text = call["function"]["arguments"]
        begun = call | {"index": index, "function": call["function"] | {"arguments": ""}}
        yield chunk({"tool_calls": [begun]})
        for piece in (text[: len(text) // 2], text[len(text) // 2 :]):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    for piece in turn.pieces if isinstance(turn, Say) else ():
        yield chunk({"content": piece})
    yield chunk({}, ends)
