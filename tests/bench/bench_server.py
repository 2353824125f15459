"""What servers carry: reports and decisions a second, memory after many events, two servers over one PostgreSQL.

    python -m tests.bench.bench_server [--events 1000000] [--only sqlite|postgresql|rules]

Clients and servers share the machine's cores. The client speaks HTTP/1.1 over bare sockets, so that what is measured is
the server. What a decision costs is told in CPU time by process, for that hardly depends on who else uses the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.postgres import Server
from tests.serving import Served, serve

CONCURRENT, SECONDS, ROUNDS, BATCH = 16, 5.0, 3, 1000
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


async def decisions(urls: list[str], key: str, concurrent: int, seconds: float = SECONDS) -> float:
    """Return decisions a second, with so many callers in all."""
    done, until = 0, time.monotonic() + seconds

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


def cpu_s(pid: int, *, children: bool = False) -> float:
    """Return the CPU seconds a process took, with those of its children, alive or not, if they are asked for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11 : 15 if children else 13])) / os.sysconf("SC_CLK_TCK")
    if not children:
        return own
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(cpu_s(int(child)) for child in listed)


class Cost:
    """Measures decisions: how many a second, and what one of them takes of each process, in microseconds."""

    def __init__(self, key: str, *servers: Served, postgres: Server | None = None) -> None:
        self._key, self._servers, self._postgres = key, servers, postgres
        self.rates: list[float] = []
        self.costs: list[dict[str, float]] = []

    def measure(self, rounds: int = ROUNDS) -> Cost:
        for _ in range(rounds):
            before, began = self._taken(), time.monotonic()
            callers = CONCURRENT * len(self._servers)
            self.rates.append(asyncio.run(decisions([each.url for each in self._servers], self._key, callers)))
            count = self.rates[-1] * (time.monotonic() - began)
            self.costs.append({who: (took - before[who]) / count * 1e6 for who, took in self._taken().items()})
        return self

    def _taken(self) -> dict[str, float]:
        taken = {"client": cpu_s(os.getpid())}
        taken["servers"] = sum(cpu_s(each.process.pid) for each in self._servers if each.process is not None)
        return taken | ({"postgres": cpu_s(self._postgres.pid, children=True)} if self._postgres else {})

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def served_us(self) -> float:
        """What a decision takes of all but the client."""
        return statistics.median(sum(cost.values()) - cost["client"] for cost in self.costs)

    def __str__(self) -> str:
        parts = {who: statistics.median(cost[who] for cost in self.costs) for who in self.costs[0]}
        shares = ", ".join(f"{who} {took:.0f}" for who, took in parts.items())
        each = ", ".join(f"{rate:,.0f}" for rate in sorted(self.rates))
        return f"{self.rate:8,.0f} decisions/s ({each}); CPU us of one: {sum(parts.values()):.0f} ({shares})"


def grown(what: str, served: Served, key: str, events: int, cost: Callable[[], Cost]) -> None:
    """Print what a decision costs before and after so many events."""
    few = cost().measure()
    print(f"{what}{few}, RSS {rss_mb(served):.0f} MB", flush=True)
    rate = asyncio.run(reports(served.url, key, events))
    print(f"{what}{rate:8,.0f} reports/s, batches of {BATCH}, RSS {rss_mb(served):.0f} MB after {events:,}", flush=True)
    many = cost().measure()
    print(f"{what}{many}, RSS {rss_mb(served):.0f} MB: {many.served_us / few.served_us:.2f} of the cost before")


def on_sqlite(events: int) -> None:
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as served:
        print(f"sqlite       ready after {served.ready_s:.2f} s, RSS {rss_mb(served):.0f} MB")
        key = registered(served, served.admin_key)
        grown("sqlite       ", served, key, events, lambda: Cost(key, served))


def on_postgresql(events: int) -> None:
    postgres = Server()
    with tempfile.TemporaryDirectory() as folder, postgres.fresh_database() as url:
        state = ["--state", f"{folder}/state"]
        with (
            serve(Path(folder), database=url, words=state) as one,
            serve(Path(folder), database=url, words=state) as two,
        ):
            key = registered(one, one.admin_key)
            print(f"postgresql   two servers, {2 * CONCURRENT} callers")
            grown("postgresql   ", one, key, events, lambda: Cost(key, one, two, postgres=postgres))
    postgres.remove()


def by_rules() -> None:
    """Print what a decision costs under ten and under 1,000 rules, in turns."""
    postgres = Server()
    with tempfile.TemporaryDirectory() as folder, postgres.fresh_database() as url, postgres.fresh_database() as other:
        few, many = Path(folder) / "few", Path(folder) / "many"
        for where, count in ((few, 10), (many, 1000)):
            where.mkdir()
            (where / "policy.yaml").write_text(policy(count))
        for what, databases in (("sqlite", (None, None)), ("postgresql", (url, other))):
            words = [["--state", f"{where}/state"] if databases[0] else [] for where in (few, many)]
            with (
                serve(few, database=databases[0], words=words[0]) as ten,
                serve(many, database=databases[1], words=words[1]) as thousand,
            ):
                costs = [
                    Cost(registered(each, each.admin_key), each, postgres=postgres if databases[0] else None)
                    for each in (ten, thousand)
                ]
                for _ in range(ROUNDS):
                    for cost in costs:
                        cost.measure(1)
                print(f"{what:<13}{costs[0]} with 10 rules")
                ratio = costs[1].served_us / costs[0].served_us
                print(f"{what:<13}{costs[1]} with 1,000: {ratio:.2f} of the cost", flush=True)
    postgres.remove()


def policy(rules: int) -> str:
    """Return a policy of so many rules, of which one reads an argument of the call that is measured."""
    others = [f"  - {{id: other-{n}, tool: tool_{n}, when: args.x > {n}, effect: block}}" for n in range(rules - 1)]
    big = "  - {id: big, tool: look, when: args.amount > 1000, effect: block}"
    return "\n".join(["version: 1", "rules:", big, *others, ""])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=200_000)
    options.add_argument("--only", choices=("sqlite", "postgresql", "rules"))
    chosen = options.parse_args()
    if chosen.only in (None, "sqlite"):
        on_sqlite(chosen.events)
    if chosen.only in (None, "postgresql"):
        on_postgresql(chosen.events)
    if chosen.only in (None, "rules"):
        by_rules()


if __name__ == "__main__":
    main()
