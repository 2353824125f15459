"""Five processes in a row, the plane over PostgreSQL that they ask, and what is on record there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tappass.engine.audit.export import export
from tappass.engine.audit.keys import log_key
from tappass.engine.store.postgres import PostgresStore
from tappass.wire.events import AuditEvent
from tests.adapters.scripted import Calls, Request, Say, ScriptedModel, Turn, calls
from tests.adapters.temporal.servers import development_server
from tests.logged import SHAPES
from tests.postgres import fresh_database
from tests.serving import Served, free_port, python_path, serve

POLICY = """
version: 1
rules:
  - {id: too-much, tool: settle, when: args.amount > 1000, effect: block}
"""
# In the order in which a request goes through them, with the agent that each acts as. The worker is the server's own: a
# workflow belongs beneath the session that it was started in where both are one agent's.
ROLES = {"app": "shop", "agent": "assistant", "peer": "billing", "ledger": "ledger", "worker": "ledger"}


class Cashier(ScriptedModel):
    """A model that asks for the bill of whatever it is told, and reads out what came back; it keeps no place."""

    def take(self, request: Request) -> Turn:
        last = request.body["messages"][-1]
        wanted: Calls | Say
        wanted = (
            Say((str(last["content"]),)) if last["role"] == "tool" else calls(("bill", json.loads(last["content"])))
        )
        self.seen.append(request)
        return wanted


class Standing:
    """One of the five: it may be killed, and started again at the same place."""

    def __init__(self, role: str, directory: Path, env: dict[str, str]) -> None:
        self.role = role
        self._env = env
        # Its outbox lies here, and outlives it.
        self._home = directory / role
        self._home.mkdir()
        self._errors = self._home / "errors"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it; `wait` until it can be reached."""
        module = f"tests.adapters.five_processes.{self.role}"
        with self._errors.open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module], cwd=self._home, env=self._env, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip

    def wait(self) -> None:
        """Wait until it can be reached."""
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", f"{self.role} did not come up:\n{self.errors}"

    def kill(self) -> None:
        """Kill it without notice."""
        assert self.end() == -signal.SIGKILL, f"{self.role} had ended by itself:\n{self.errors}"

    def end(self) -> int | None:
        """End it if it was ever started; return how it did."""
        if self._process is None:
            return None
        self._process.kill()
        code = self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return code

    @property
    def errors(self) -> str:
        """What it wrote to stderr in all its lives."""
        return self._errors.read_text(errors="replace")


@dataclass(frozen=True)
class Ran:
    """A governed call that ran: which hop, under which decision, in which session, with what."""

    hop: str
    task_id: str
    session_id: str
    given: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What came of a request; status 0 is a connection that broke."""

    status: int
    text: str
    session_id: str
    took_s: float


class Chain:
    """The five, in order, and what is known about them from outside."""

    def __init__(self, directory: Path, served: Served, database: str, model: str, temporal: str) -> None:
        self.served, self._database = served, database
        self._ran = directory / "ran.jsonl"
        self._ran.touch()
        ports = {role: str(free_port()) for role in ROLES}
        keys = {agent: self._key(agent) for agent in dict.fromkeys(ROLES.values())}
        http = {role: f"http://127.0.0.1:{port}" for role, port in ports.items()}
        self.url = http["app"]
        after = {
            "app": http["agent"], "agent": http["peer"], "peer": f"{http['ledger']}/mcp", "ledger": temporal,
            "worker": temporal,
        }  # fmt: skip
        self.five = {}
        for role, agent in ROLES.items():
            env = surroundings(directory) | {
                "MODEL": f"{model}/v1", "NEXT": after[role], "PORT": ports[role], "RAN_FILE": str(self._ran),
                "TAPPASS_API_KEY": keys[agent], "TAPPASS_URL": served.url,
            }  # fmt: skip
            self.five[role] = Standing(role, directory, env)

    def _key(self, agent: str) -> str:
        headers = {"authorization": f"Bearer {self.served.admin_key}"}
        answer = httpx.post(
            f"{self.served.url}/agents/register", json={"agent_id": agent}, headers=headers, trust_env=False
        )
        return str(answer.raise_for_status().json()["api_key"])

    def order(self, order: str, amount: int) -> Answer:
        """Send one order through all of them."""
        began = time.monotonic()
        try:
            answer = httpx.post(f"{self.url}/orders/{order}", params={"amount": amount}, timeout=120, trust_env=False)
        except httpx.TransportError as error:
            return Answer(0, repr(error), "", time.monotonic() - began)
        session_id = answer.headers.get("x-tappass-session", "")
        return Answer(answer.status_code, answer.text, session_id, time.monotonic() - began)

    def ran(self) -> list[Ran]:
        """Return what ran so far."""
        return [Ran(*json.loads(line)) for line in self._ran.read_text().splitlines()]

    def log(self) -> Log:
        """Return what is on record: exported, and verified with its public key alone, by the command for it.

        Raises:
            AssertionError: it does not verify.
        """
        file = self._ran.with_name("log.jsonl")
        store = PostgresStore(self._database)
        try:
            with file.open("wb") as out:
                header = export(store, out, log_key(self.served.directory / ".tappass"), content=True)
            events = list(store.read.all_events())[: header.size]
            contents = store.read.contents(org_id=header.org_id, start=0, end=header.size)
        finally:
            store.close()
        verify = [sys.executable, "-m", "tappass", "audit", "verify", str(file), "--key", header.key, "--json"]
        env = surroundings(file.parent)
        done = subprocess.run(verify, cwd=file.parent, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return Log(events, {seq: json.loads(body) for seq, (_, body) in contents.items()})


def surroundings(home: Path) -> dict[str, str]:
    """Return an environment with nobody's settings in it, and a home of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAPPASS_", "XDG_"))}
    return kept | {"HOME": str(home), "PYTHONPATH": python_path()}


class Log:
    """A log that verifies.

    Attributes:
        events: all of it.
        decided: the decisions, by task id.
        ended: the endings, by task id.
        contents: what is stored of an event beside the log, by its number.
    """

    def __init__(self, events: list[AuditEvent], contents: dict[int, Any]) -> None:
        self.events, self.contents = events, contents
        self.decided = self._by_task("call.decided")
        self.ended = self._by_task("call.ended")
        self._opened = {event.session_id: event for event in events if event.type == "session.opened"}

    def _by_task(self, kind: str) -> dict[str, AuditEvent]:
        found = [event for event in self.events if event.type == kind]
        by_task = {event.task_id: event for event in found}
        assert len(by_task) == len(found), f"there are two {kind} of one task"
        return by_task

    def line(self, session_id: str) -> list[AuditEvent]:
        """Return the openings from a session up to its root."""
        found = [self._opened[session_id]]
        while found[-1].parent:
            found.append(self._opened[found[-1].parent])
        return found

    def root(self, session_id: str) -> str:
        """Return the id of the session that a session is beneath, or is itself."""
        return self.line(session_id)[-1].session_id


@contextmanager
def chain(directory: Path) -> Iterator[Chain]:
    """Yield the five, ready, with all that they need beside them."""
    home = directory / "plane"
    home.mkdir()
    (home / "policy.yaml").write_text(POLICY)
    with ExitStack() as stack:
        database = stack.enter_context(fresh_database())
        temporal = stack.enter_context(development_server())
        model = stack.enter_context(Cashier())
        served = stack.enter_context(serve(home, database=database, env=surroundings(directory)))
        made = Chain(directory, served, database, model.url, temporal)
        try:
            for each in made.five.values():
                each.start()
            for each in made.five.values():
                each.wait()
            yield made
        finally:
            for each in made.five.values():
                each.end()
        for each in made.five.values():
            assert not SHAPES.findall(each.errors), f"the log of {each.role} shows secrets"
