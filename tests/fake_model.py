"""A scripted model server on loopback that speaks OpenAI's chat completions: answers, errors, silence and garbage."""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Call:
    """A tool call that the model asks for, its arguments in the pieces they stream in."""

    name: str
    arguments: tuple[str, ...]
    id: str = "call_1"
    index: int = 0


@dataclass(frozen=True)
class Answer:
    """An answer, sent whole or in its pieces as the request asks."""

    pieces: tuple[str, ...] = ("Hello.",)
    calls: tuple[Call, ...] = ()
    model: str = "fake-1"
    finish_reason: str = ""
    usage: tuple[int, int] | None = (7, 3)
    after: dict[int, threading.Event] = field(default_factory=dict)
    """Events to wait for before the piece of that number is sent."""

    @property
    def ends_with(self) -> str:
        return self.finish_reason or ("tool_calls" if self.calls else "stop")


@dataclass(frozen=True)
class Raw:
    """Exact bytes, with a pause before any of them."""

    body: tuple[bytes, ...] = (b"",)
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    before: threading.Event | None = None
    cut: bool = False
    """Promise more bytes than are sent."""


def text(*pieces: str, **more: Any) -> Answer:
    return Answer(pieces=pieces, **more)


def error(status: int, code: str = "", message: str = "") -> Raw:
    return Raw(status=status, body=(json.dumps({"error": {"code": code, "message": message}}).encode(),))


def events(*datas: str, ending: str = "\n\n") -> Raw:
    return Raw(body=tuple(f"data: {data}{ending}".encode() for data in datas), content_type="text/event-stream")


@dataclass
class Seen:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    client: tuple[str, int]


class FakeModel:
    """Answers by its script, then by `default`.

    `seen` are the requests, in order; `asked` is set by the first, `gone` by a caller who hangs up.
    """

    def __init__(self, *script: Answer | Raw, default: Answer | Raw | None = None) -> None:
        self.script = deque(script)
        self.default = default or Answer()
        self.seen: list[Seen] = []
        self.asked = threading.Event()
        self.gone = threading.Event()
        self.refuse_stream_options = False
        self._lock = threading.Lock()
        self._server = _QuietServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def add(self, *answers: Answer | Raw) -> None:
        self.script.extend(answers)

    def take(self, seen: Seen) -> Answer | Raw:
        with self._lock:
            self.seen.append(seen)
            self.asked.set()
            if self.refuse_stream_options and "stream_options" in seen.body:
                return error(400, "unknown_parameter")
            return self.script.popleft() if self.script else self.default

    def __enter__(self) -> FakeModel:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of callers who hang up between requests."""


def _handler(model: FakeModel) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen = Seen(
                self.path, {name.lower(): value for name, value in self.headers.items()}, body, self.client_address
            )
            answer = model.take(seen)
            try:
                self._raw(answer) if isinstance(answer, Raw) else self._answer(answer, body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
                model.gone.set()

        def _raw(self, raw: Raw) -> None:
            if raw.before is not None:
                raw.before.wait(10)
            self.send_response(raw.status)
            self.send_header("content-type", raw.content_type)
            self.send_header("content-length", str(sum(map(len, raw.body)) + (10 if raw.cut else 0)))
            for name, value in raw.headers:
                self.send_header(name, value)
            self.end_headers()
            for piece in raw.body:
                self.wfile.write(piece)
                self.wfile.flush()
            self.close_connection = self.close_connection or raw.cut

        def _answer(self, answer: Answer, body: dict[str, Any]) -> None:
            if not body.get("stream"):
                for event in answer.after.values():
                    event.wait(10)
                self._raw(Raw(body=(json.dumps(_whole(answer)).encode(),)))
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream; charset=utf-8")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for number, chunk in enumerate(_chunks(answer, body)):
                if number in answer.after:
                    self._wait_for(answer.after[number])
                self._piece(b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n")
            self._piece(b"data: [DONE]\n\n")
            self._piece(b"")

        def _wait_for(self, event: threading.Event) -> None:
            # Comments keep the line busy, so that a caller who leaves is noticed.
            while not event.wait(0.01):
                self._piece(b": waiting\n\n")

        def _piece(self, piece: bytes) -> None:
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _usage(answer: Answer) -> dict[str, int]:
    asked, said = answer.usage or (0, 0)
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def _whole(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(answer.pieces) or None}
    if answer.calls:
        message["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": "".join(c.arguments)}}
            for c in answer.calls
        ]
    whole: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": answer.model,
        "choices": [{"index": 0, "message": message, "finish_reason": answer.ends_with}],
    }
    return whole | ({"usage": _usage(answer)} if answer.usage else {})


def _chunks(answer: Answer, body: dict[str, Any]) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in answer.pieces]
    for call in answer.calls:
        head = {
            "index": call.index,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }
        deltas.append({"tool_calls": [head]})
        deltas += [
            {"tool_calls": [{"index": call.index, "function": {"arguments": piece}}]} for piece in call.arguments
        ]
    chunks = [_chunk(answer, delta, None) for delta in deltas]
    chunks.append(_chunk(answer, {}, answer.ends_with))
    if answer.usage and (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({"id": "chatcmpl-1", "model": answer.model, "choices": [], "usage": _usage(answer)})
    return chunks


def _chunk(answer: Answer, delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": answer.model, "choices": [choice]}
