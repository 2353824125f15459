"""A scripted model server on loopback that speaks Gemini's protocol: whole answers, and streamed ones."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Says:
    """One answer: text in its pieces, then tool calls, each a name and arguments."""

    pieces: tuple[str, ...] = ()
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    usage: tuple[int, int] = (7, 3)
    after: threading.Event | None = None
    """An event to wait for before anything is sent."""
    status: int = 200


def says(*pieces: str, **more: Any) -> Says:
    return Says(pieces=pieces, **more)


def calls(*asked: tuple[str, dict[str, Any]], **more: Any) -> Says:
    return Says(calls=asked, **more)


class Gemini:
    """Answers by its script, then with "Done."; `seen` are the requests, in order.

    A script for one agent's requests only lies in `by_agent`, by a word of that agent's instruction.
    """

    def __init__(self) -> None:
        self.script: deque[Says] = deque()
        self.by_agent: dict[str, deque[Says]] = {}
        self.seen: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._server = _Quiet(("127.0.0.1", 0), _handler(self))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, *answers: Says) -> None:
        self.script.extend(answers)

    def told(self) -> str:
        """Return all that any model was sent, as JSON text."""
        return json.dumps(self.seen)

    def take(self, body: dict[str, Any]) -> Says:
        instruction = json.dumps(body.get("systemInstruction") or "")
        with self._lock:
            self.seen.append(body)
            for word, script in self.by_agent.items():
                if word in instruction:
                    return script.popleft() if script else says("Done.")
            return self.script.popleft() if self.script else says("Done.")


@contextmanager
def gemini() -> Iterator[Gemini]:
    model = Gemini()
    thread = threading.Thread(target=model._server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield model
    finally:
        model._server.shutdown()
        model._server.server_close()
        thread.join()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of callers who hang up."""


def _chunk(parts: list[dict[str, Any]], answer: Says, *, last: bool) -> dict[str, Any]:
    asked, said = answer.usage
    return {
        "candidates": [
            {"index": 0, "content": {"role": "model", "parts": parts}, **({"finishReason": "STOP"} if last else {})}
        ],
        "usageMetadata": {"promptTokenCount": asked, "candidatesTokenCount": said, "totalTokenCount": asked + said},
        "modelVersion": "gemini-fake-001",
    }


def _handler(model: Gemini) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer = model.take(body)
            if answer.after is not None:
                answer.after.wait(30)
            if answer.status != 200:
                error = {"error": {"code": answer.status, "message": "scripted", "status": "INTERNAL"}}
                return self._json(json.dumps(error).encode(), answer.status)
            parts = [{"text": piece} for piece in answer.pieces]
            asked = [{"functionCall": {"name": name, "args": args}} for name, args in answer.calls]
            if ":streamGenerateContent" in self.path:
                pieces = [[part] for part in parts] + ([asked] if asked else [])
                chunks = [_chunk(piece, answer, last=i == len(pieces) - 1) for i, piece in enumerate(pieces)]
                text = "".join(f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks)
                return self._json(text.encode(), 200, "text/event-stream")
            self._json(json.dumps(_chunk(parts + asked, answer, last=True)).encode())

        def _json(self, body: bytes, status: int = 200, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
