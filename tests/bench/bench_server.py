"""What servers carry: reports and decisions a second, memory after many events, two servers over one PostgreSQL.

    python -m tests.bench.bench_server [--events 1000000]

Clients and servers share the machine's cores. The client speaks HTTP/1.1 over bare sockets, so that what is measured is
the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import httpx

from tests.postgres import Server
from tests.serving import Served, serve

CONCURRENT, SECONDS, BATCH = 16, 6.0, 1000
QUESTION = {
    "type": "TOOL_CALL",
    "payload": {"tool": "look", "args": {"amount": 5, "to": "billing@acme.example", "note": "n" * 200}},
    "capabilities": ["redact_arguments", "scan_result"],
}


class Wire:
    """One kept connection."""

    def __init__(self, url: str, key: str) -> None:
        self._host, self._port = url.removeprefix("http://").split(":")
        self._head = f"Host: {self._host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"

    async def open(self) -> Wire:
        self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port))
        return self

    async def post(self, path: str, body: bytes, more: str = "") -> int:
        head = f"POST {path} HTTP/1.1\r\n{self._head}{more}Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await self._reader.readexactly(length)
        return int(answer[9:12])


def registered(served: Served, admin_key: str) -> str:
    headers = {"authorization": f"Bearer {admin_key}"}
    answer = httpx.post(f"{served.url}/agents/register", json={"agent_id": "bench"}, headers=headers, trust_env=False)
    return str(answer.json()["api_key"])


async def decisions(urls: list[str], key: str, concurrent: int) -> float:
    """Return decisions a second, with so many callers in all."""
    done, until = 0, time.monotonic() + SECONDS

    async def work(number: int) -> None:
        nonlocal done
        wire = await Wire(urls[number % len(urls)], key).open()
        call = 0
        while time.monotonic() < until:
            call += 1
            body = json.dumps(QUESTION | {"behavior_id": f"tsk_{time.monotonic_ns()}_{number}_{call}"}).encode()
            status = await wire.post("/v1/govern", body)
            assert status == 200, status
            done += 1

    began = time.monotonic()
    await asyncio.gather(*(work(number) for number in range(concurrent)))
    return done / (time.monotonic() - began)


async def reports(url: str, key: str, events: int) -> float:
    """Return reports a second, in batches over four connections."""
    report = {"event_type": "bench", "occurred_at": "2026-11-22T00:00:00Z", "details": {"step": "s", "n": 1}}
    body = json.dumps([report] * BATCH).encode()
    numbers = iter(range(events // BATCH))

    async def work() -> None:
        wire = await Wire(url, key).open()
        for number in numbers:
            status = await wire.post("/v1/events", body, f"Idempotency-Key: bench-{time.monotonic_ns()}-{number}\r\n")
            assert status == 202, status

    began = time.monotonic()
    await asyncio.gather(*(work() for _ in range(4)))
    return events / (time.monotonic() - began)


def rss_mb(served: Served) -> float:
    assert served.process is not None
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def on_sqlite(events: int) -> None:
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as served:
        print(f"sqlite       ready after {served.ready_s:.2f} s, RSS {rss_mb(served):.0f} MB")
        key = registered(served, served.admin_key)
        few = asyncio.run(decisions([served.url], key, CONCURRENT))
        print(f"sqlite       {few:8,.0f} decisions/s, {CONCURRENT} callers, RSS {rss_mb(served):.0f} MB")
        rate = asyncio.run(reports(served.url, key, events))
        print(f"sqlite       {rate:8,.0f} reports/s, batches of {BATCH}, RSS {rss_mb(served):.0f} MB after {events:,}")
        many = asyncio.run(decisions([served.url], key, CONCURRENT))
        print(f"sqlite       {many:8,.0f} decisions/s then: {few / many:.2f} of the cost before")


def on_postgresql() -> None:
    postgres = Server()
    with tempfile.TemporaryDirectory() as folder, postgres.fresh_database() as url:
        state = ["--state", f"{folder}/state"]
        with (
            serve(Path(folder), database=url, words=state) as one,
            serve(Path(folder), database=url, words=state) as two,
        ):
            key = registered(one, one.admin_key)
            rate = asyncio.run(decisions([one.url, two.url], key, 2 * CONCURRENT))
            print(f"postgresql   {rate:8,.0f} decisions/s, two servers, {2 * CONCURRENT} callers")
    postgres.remove()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=200_000)
    on_sqlite(options.parse_args().events)
    on_postgresql()


if __name__ == "__main__":
    main()
