"""What a decision by a server costs, beside a bare request to a constant route of the same server, in one run.

    python tests/bench/bench_remote.py

Client and server share the machine's cores. Each figure is the median of interleaved rounds. The bare request is a
pooled `httpx.Client` (or `AsyncClient`) POST of the very bytes of a question, to a route that reads them and answers as
many bytes as a decision has.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS, CALLS, CONCURRENT = 6, 400, 16
RULES = """\
version: 1
rules:
  - {id: big, tool: pay, when: args.amount > 1000, effect: block}
"""
OTHER = "  - {{id: other-{n}, tool: tool_{n}, when: args.x > {n}, effect: block}}\n"

SERVER = """
import json, sys
from pathlib import Path
import uvicorn
from litestar import post, Request, Response
from tappass.engine.credentials import AGENT
from tappass.engine.keys import Keys
from tappass.engine.leaves import Leaves
from tappass.engine.organisations import Organisations
from tappass.engine.trust import Agents
from tappass.server import logs
from tappass.server.app import make_app
from tappass.server.routes import HANDLERS
from tappass.server.serve import Serving
from tappass.wire.ids import SYSTEM_CLOCK
from tests.people import ADA

logs.configure()
state = Path(sys.argv[1]) / ".tappass"
house = Serving(f"sqlite:///{state}/tappass.db", state).house()
Organisations(house.store).settle_in()
leaves = Leaves(SYSTEM_CLOCK)
Agents(house.store, leaves, SYSTEM_CLOCK).add(ADA, "bench")
key = Keys(house.store, leaves).create("bench", AGENT, name="bench").key

@post("/constant", opt={"scope": AGENT}, status_code=200)
async def constant(request: Request) -> Response[bytes]:
    await request.body()
    return Response(b"{" + b" " * 640 + b"}", media_type="application/json")

from tappass.server.serve import _listen
listening = _listen("127.0.0.1", 0)
print(json.dumps([listening.getsockname()[1], key]), flush=True)
config = uvicorn.Config(make_app(house, [*HANDLERS, constant]), log_config=None, access_log=False)
uvicorn.Server(config).run([listening])
"""


def timed(function: Callable[[], Any], calls: int) -> list[int]:
    took = []
    for _ in range(calls):
        begin = time.perf_counter_ns()
        function()
        took.append(time.perf_counter_ns() - begin)
    return took


def sync_calls(url: str, key: str) -> dict[str, float]:
    """Return the median microseconds of each contestant."""
    import httpx

    from tappass import tappass_session, tool
    from tappass.decorators import known_spec
    from tappass.plane.connect import connect
    from tappass.plane.exchange import govern
    from tappass.wire.ids import UUID_IDS

    @tool
    def pay(to: str, amount: float, note: str = "") -> None: ...

    spec = known_spec(pay)
    assert spec is not None
    took: dict[str, list[int]] = {}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    with tappass_session(url=url, api_key=key) as session, httpx.Client(trust_env=False) as client:
        plane = connect(url, key)
        call = spec.call(session, ("acme", 120.0), {})
        body = govern(call.request()).body

        def decide() -> None:
            call.task_id = UUID_IDS.new("tsk")
            plane.sync.decide(call.request())

        for n in range(ROUNDS):
            rounds = {
                "bare request": timed(lambda: client.post(f"{url}/constant", content=body, headers=headers), CALLS),
                "decision": timed(decide, CALLS),
                "governed call": timed(lambda: pay("acme", 120.0), CALLS),
            }
            if n:
                for name, times in rounds.items():
                    took.setdefault(name, []).extend(times)
    return {name: statistics.median(times) / 1000 for name, times in took.items()}


def async_calls(url: str, key: str) -> float:
    """Return how many governed coroutines run in a second, that many at a time."""
    import anyio

    from tappass import tappass_session_async, tool

    @tool(name="apay")
    async def apay(to: str, amount: float, note: str = "") -> None: ...

    async def worker() -> None:
        for _ in range(CALLS):
            await apay("acme", 120.0)

    async def main() -> float:
        async with tappass_session_async(url=url, api_key=key):
            await worker()
            began = time.perf_counter()
            async with anyio.create_task_group() as group:
                for _ in range(CONCURRENT):
                    group.start_soon(worker)
            return CONCURRENT * CALLS / (time.perf_counter() - began)

    return anyio.run(main)


def appended(root: Path) -> float:
    """Return the median microseconds in which an ending is safe in the outbox."""
    from tappass.plane.outbox import Outbox
    from tappass.wire.endings import Ending
    from tappass.wire.ids import UUID_IDS
    from tappass.wire.service import Ended

    outbox = Outbox(root / "outbox.db")
    ending = Ending(session_id=UUID_IDS.new("ses"), task_id=UUID_IDS.new("tsk"), status="completed", duration_us=12)
    entry = Ended(ending=ending, at="2026-01-31T09:30:00.000001Z")
    took = statistics.median(timed(lambda: outbox.append(entry), 10_000)) / 1000
    outbox.close()
    return took


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.chdir(root)
        (root / ".tappass").mkdir()
        (root / "policy.yaml").write_text(RULES + "".join(OTHER.format(n=n) for n in range(9)))
        here = str(Path(__file__).resolve().parents[2])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
        server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER, folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        try:
            assert server.stdout is not None
            port, key = json.loads(server.stdout.readline())
            url = f"http://127.0.0.1:{port}"
            figures = sync_calls(url, key)
            bare = figures["bare request"]
            for name, took in figures.items():
                print(f"{name:20} {took:8.0f} us  {took / bare:5.2f} times a bare request")
            print(f"{'async, 16 at a time':20} {async_calls(url, key):8.0f} a second")
            print(f"{'outbox, append':20} {appended(root):8.1f} us")
            from tappass.session.registry import registry

            registry.shutdown()
        finally:
            server.terminate()
            server.wait(20)


if __name__ == "__main__":
    main()
