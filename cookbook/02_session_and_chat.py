"""One session around model calls and tool calls: one story in the log, with the same ids on everything.

You get a chat and a tool call under one session id, and a prompt that holds a key stopped before it leaves the
machine. The model is a stand-in on loopback, so that this runs offline; for a real one put its address and the name of
the variable with its key into `[[upstream]]` of `tappass.toml`.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from tappass import Agent, PolicyBlockError, current_session, governed, tool
from tappass.testing import memory_plane

POLICY = """
version: 1
detect:
  secrets: {prompt: block}
"""


class StandIn(BaseHTTPRequestHandler):
    """Answers every chat completion with one sentence."""

    def do_POST(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "Acme owes 120 EUR for paper."}
        usage = {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = json.dumps({"model": "stand-in-1", "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing on the terminal."""


@contextmanager
def stand_in() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), StandIn) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@tool
def book_invoice(summary: str) -> str:
    """Book an invoice."""
    return f"booked: {summary}"


@governed(name="invoice-run")
def run(invoice: str) -> str:
    session = current_session()
    assert session is not None
    reply = Agent().chat(f"Summarise: {invoice}")
    assert reply.session_id == session.session_id
    print(f"{reply.model} answered with {reply.usage.total_tokens} tokens: {reply}")
    return book_invoice(reply.content)


def main() -> None:
    with stand_in() as url, memory_plane(POLICY, f'[[upstream]]\nmatch = "*"\nbase_url = "{url}"\n') as plane:
        print(run("120 EUR for paper, Acme"))
        try:
            run("pay with AKIAIOSFODNN7EXAMPLE")
        except PolicyBlockError as error:
            print(error)

        calls = plane.events(type="call.decided")
        assert [(call.kind, call.outcome) for call in calls] == [("llm", "allow"), ("tool", "allow"), ("llm", "block")]
        assert calls[0].session_id == calls[1].session_id != calls[2].session_id


if __name__ == "__main__":
    main()
