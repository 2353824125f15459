"""What a governed call costs, beside Microsoft's agentmesh and a bare call, in one run; prints one table.

    scripts/bench

Each figure is the median of interleaved rounds, so that a slow minute of the machine slows all of them alike. Ten
rules of which one reads an argument, detectors on, two durable leaves a call (SQLite, WAL, NORMAL); agentmesh has ten
rules too, and its in-memory audit. It runs in an environment of its own (`AGENTMESH_PYTHON`), through a pipe.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS, CALLS = 6, 3000

RULES = """\
version: 1
rules:
  - {{id: big, tool: pay, when: args.amount > 1000, effect: block}}
{others}
"""
OTHER = "  - {{id: other-{n}, tool: tool_{n}, when: args.x > {n}, effect: block}}"

BUDGET = "budgets: {session: {tool_calls: 1000000}}\n"

AGENTMESH = '''
import json, sys, time, warnings
warnings.simplefilter("ignore")
from agentmesh.governance import govern
rules = "".join(
    f"""
  - name: r{i}
    condition: "action.type == 'tool_{i}'"
    action: deny
    priority: {i}""" for i in range(9)
)
policy = f"""
apiVersion: governance.toolkit/v1
name: bench
agents: ["*"]
default_action: allow
rules:{rules}
  - name: big
    condition: "action.amount > 1000"
    action: deny
    priority: 50
"""
def pay(to, amount, note=""):
    return "ok"
governed = govern(pay, policy=policy)
for line in sys.stdin:
    took = []
    for _ in range(int(line)):
        begin = time.perf_counter_ns()
        governed(to="acme", amount=120.0)
        took.append(time.perf_counter_ns() - begin)
    print(json.dumps(took), flush=True)
'''


def policy(rules: int) -> str:
    return RULES.format(others="\n".join(OTHER.format(n=n) for n in range(rules - 1)))


def timed(function: Callable[[], Any], calls: int) -> list[int]:
    took = []
    for _ in range(calls):
        begin = time.perf_counter_ns()
        function()
        took.append(time.perf_counter_ns() - begin)
    return took


class Agentmesh:
    """The other one, in its own process: it times itself, we say when."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, "-c", AGENTMESH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self(200)

    def __call__(self, calls: int) -> list[int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{calls}\n")
        self._process.stdin.flush()
        return list(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate()


def sync_calls(root: Path, other: Agentmesh | None) -> dict[str, float]:
    """Return the median microseconds of each contestant."""
    from tappass import tappass_session, tool

    @tool
    def pay(to: str, amount: float, note: str = "") -> str:
        return "ok"

    def bare(to: str, amount: float, note: str = "") -> str:
        return "ok"

    urls = {}
    for rules in (10, 1000):
        (root / str(rules)).mkdir()
        (root / str(rules) / "policy.yaml").write_text(policy(rules))
        urls[rules] = f"sqlite:///{root}/{rules}/tappass.db"
    (root / "budget").mkdir()
    (root / "budget" / "policy.yaml").write_text(policy(10) + BUDGET)
    budgeted = f"sqlite:///{root}/budget/tappass.db"
    took: dict[str, list[int]] = {}
    with (
        tappass_session(url=urls[10]) as ten,
        tappass_session(url=urls[1000]) as thousand,
        tappass_session(url=budgeted) as budget,
    ):
        from tappass.session.context import enter

        for n in range(ROUNDS):
            rounds: dict[str, list[int]] = {"bare": timed(lambda: bare("acme", 120.0), CALLS)}
            for name, session in (("tappass, 10 rules", ten), ("tappass, 1000 rules", thousand), ("budget", budget)):
                before = enter(session)
                rounds[name] = timed(lambda: pay("acme", 120.0), CALLS)
                enter(before)
            if other is not None:
                rounds["agentmesh, 10 rules"] = other(CALLS)
            if n:
                for name, times in rounds.items():
                    took.setdefault(name, []).extend(times)
    return {name: statistics.median(times) / 1000 for name, times in took.items()}


def async_call(root: Path) -> float:
    """Return the median microseconds of a governed coroutine's call, less the event loop's own."""
    import anyio

    from tappass import tappass_session_async, tool

    @tool(name="apay")
    async def apay(to: str, amount: float, note: str = "") -> str:
        return "ok"

    async def main() -> list[int]:
        took = []
        async with tappass_session_async(url=f"sqlite:///{root}/10/tappass.db"):
            for _ in range(3000):
                begin = time.perf_counter_ns()
                await apay("acme", 120.0)
                took.append(time.perf_counter_ns() - begin)
        return took

    return statistics.median(anyio.run(main)[500:]) / 1000


def thread_hop() -> float:
    """Return the median microseconds of a hop that does nothing: on an idle machine most of a governed coroutine."""
    import anyio
    import anyio.to_thread

    async def main() -> list[int]:
        took = []
        for _ in range(3000):
            begin = time.perf_counter_ns()
            await anyio.to_thread.run_sync(int)
            took.append(time.perf_counter_ns() - begin)
        return took

    return statistics.median(anyio.run(main)[500:]) / 1000


def redemption(root: Path) -> tuple[float, float]:
    """Return the median microseconds of a plain call and of one that redeems an approval, in one run."""
    from tappass import ApprovalRequired, tappass_session, tool
    from tappass.engine.approver import Approver
    from tappass.plane.connect import connect
    from tappass.session.context import current_session

    (root / "held").mkdir()
    (root / "held" / "policy.yaml").write_text(policy(9) + "  - {id: ask, tool: held, effect: require_approval}\n")
    url = f"sqlite:///{root}/held/tappass.db"

    @tool(name="held")
    def held(n: int) -> int:
        return n

    @tool(name="plain")
    def plain(n: int) -> int:
        return n

    plane: Any = connect(url)
    plane.engine.store.run(
        lambda tx: tx.execute(
            "INSERT INTO person (person_id, org_id, name, roles, created_at) VALUES ('p', 'org_local', 'ann', '', '')"
        )
    )
    redeemed, called = [], []
    with tappass_session(url=url):
        session = current_session()
        assert session is not None
        for n in range(300):
            try:
                held(n)
            except ApprovalRequired as error:
                token = error.resume_token
            approval_id = token.removeprefix("tp_resume_").rpartition(".")[0]
            plane.engine.voting.approve(approval_id, Approver(person_id="p", name="ann", key_id=""), "ok")
            plain(n)
            called += timed(lambda n=n: plain(n), 1)
            session.resume_token = token
            redeemed += timed(lambda n=n: held(n), 1)
            session.resume_token = ""
    return statistics.median(called) / 1000, statistics.median(redeemed) / 1000


def growth(root: Path) -> float:
    """Return the megabytes by which 90,000 further calls grow the process after its first 10,000."""
    from tappass import tappass_session, tool

    @tool(name="pay_many")
    def pay_many(to: str, amount: float) -> str:
        return "ok"

    with tappass_session(url=f"sqlite:///{root}/10/tappass.db"):
        for _ in range(10_000):
            pay_many("acme", 120.0)
        before = resident_mb()
        for _ in range(90_000):
            pay_many("acme", 120.0)
        return resident_mb() - before


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def imports() -> tuple[float, float]:
    """Return the median milliseconds to import our public names, and to import msgspec and decorator alone."""
    ours = "from tappass import tool, governed, govern, tappass_session, current_session, Agent, PolicyBlockError"
    took: dict[str, list[float]] = {ours: [], "import msgspec, decorator": []}
    for _ in range(15):
        for statement, times in took.items():
            code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
            cached = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=cached)
            times.append(float(done.stdout) * 1000)
    return statistics.median(took[ours]), statistics.median(took["import msgspec, decorator"])


def verification() -> float:
    from tests.bench.bench_log import main

    return float(main(calls=500, many=100_000)["verify"]["per_s"])


def row(what: str, figure: str, ratio: str, promise: str) -> None:
    print(f"{what:<46} {figure:>14} {ratio:>12}   {promise}")


def main() -> None:
    from tappass.session.registry import registry

    python = os.environ.get("AGENTMESH_PYTHON")
    other = Agentmesh(python) if python else None
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        calls = sync_calls(root, other)
        ten = calls["tappass, 10 rules"]
        row("what", "measured", "ratio", "promise")
        row("bare function call", f"{calls['bare']:.1f} µs", "", "")
        row("governed call, 10 rules (p50)", f"{ten:.1f} µs", "", "")
        if other is not None:
            mesh = calls["agentmesh, 10 rules"]
            row("agentmesh govern(), 10 rules (p50)", f"{mesh:.1f} µs", f"{ten / mesh:.2f}", "ours at most 1.00 of it")
        many = calls["tappass, 1000 rules"]
        row("governed call, 1000 rules (p50)", f"{many:.1f} µs", f"{many / ten:.2f}", "at most 1.20 of ten rules")
        spent = calls["budget"]
        row("governed call under a session budget (p50)", f"{spent:.1f} µs", f"{spent / ten:.2f}", "")
        hop = thread_hop()
        row("bare hop to a thread (p50)", f"{hop:.1f} µs", "", "what the machine takes to wake a thread")
        acall = async_call(root)
        row("governed coroutine's call (p50)", f"{acall:.1f} µs", f"{acall / hop:.2f}", "at most 250 µs; one hop in it")
        plain, redeemed = redemption(root)
        row("call that redeems an approval (p50)", f"{redeemed:.1f} µs", f"{redeemed / plain:.2f}", "at most 3 calls")
        row("memory, 90,000 calls after 10,000", f"{growth(root):+.1f} MB", "", "at most +5 MB")
        registry.shutdown()
    ours, theirs = imports()
    row("import of the public names", f"{ours:.0f} ms", f"{ours / theirs:.2f}", "at most 1.50 of msgspec + decorator")
    row("verification on one core", f"{verification():,.0f} /s", "", "at least 300,000 /s")
    if other is not None:
        other.close()


if __name__ == "__main__":
    main()
