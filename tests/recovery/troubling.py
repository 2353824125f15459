"""A proxy on loopback that answers 500 at times: before the server has seen a request, or after it has answered."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ERROR = b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"

# What to do with a request, by its path: `pass`, `before` (500, the server sees nothing), `after` (500 all the same).
Trouble = Callable[[str], str]


def at_times(share: float, seed: int = 7) -> Trouble:
    chance = random.Random(seed)
    return lambda path: "pass" if chance.random() > share or path == "/health" else chance.choice(["before", "after"])


class Proxy:
    """Forwards to a port; `trouble` may be changed at any time."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.trouble: Trouble = lambda path: "pass"
        self.port = 0

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while (request := await _message(reader)) is not None:
                what = self.trouble(request.split(b" ", 2)[1].decode())
                if what == "before":
                    writer.write(_ERROR)
                    continue
                if upstream is None:
                    upstream = await asyncio.open_connection("127.0.0.1", self._to)
                upstream[1].write(request)
                answer = await _message(upstream[0])
                if answer is None:
                    return  # the server has died: so does this connection
                writer.write(_ERROR if what == "after" else answer)
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            for each in (writer, *(upstream or ())[1:]):
                with contextlib.suppress(Exception):
                    each.close()


async def _message(reader: asyncio.StreamReader) -> bytes | None:
    """Read one HTTP message with its body, None at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    return head + (await reader.readexactly(length) if length else b"")


@contextmanager
def troubled(port: int) -> Iterator[Proxy]:
    """Yield a proxy to a port of this machine."""
    proxy, ready = Proxy(port), threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def run() -> None:
        loop.run_until_complete(proxy._serve(ready, stop))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
