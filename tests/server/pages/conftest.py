"""A real server on a real file, agents that call in this process, people with keys of every scope."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from playwright.sync_api import Browser

from tappass import ApprovalRequired, tappass_session
from tappass.engine.approver import Approver
from tappass.engine.keys import Keys, MadeKey
from tappass.engine.leaves import ORG, Leaves
from tappass.engine.store.opening import open_store
from tappass.engine.trust import Agents
from tappass.wire.ids import SYSTEM_CLOCK
from tests.browser import Person, chromium, person
from tests.serving import Served, free_port, serve

POLICY = """
version: 1
rules:
  - id: large-payments
    tool: pay*
    when: args.amount > 1000
    effect: require_approval
    expires_in: 1h
    message: Compare the amount with the invoice first
  - id: two-keys
    tool: launch
    effect: require_approval
    approvers: 2
  - id: mail-stays-inside
    tool: send_email
    when: '!args.to.endsWith("@acme.com")'
    effect: block
    classification: CONFIDENTIAL
  - {id: mask-crm, tool: crm_*, effect: redact, fields: [result], kinds: [EMAIL]}
"""
T = TypeVar("T")


class Place:
    """One database with a server over it, and what people and agents do there."""

    def __init__(self, served: Served, database: str = "") -> None:
        self.served, self.url = served, served.url
        self.database = database or f"sqlite:///{served.directory}/.tappass/tappass.db"
        self.store = open_store(self.database).scoped(ORG)
        self.leaves = Leaves(SYSTEM_CLOCK)
        self.agents = Agents(self.store, self.leaves)
        self.keys = Keys(self.store, self.leaves)
        self._made: dict[str, MadeKey] = {}

    def key(self, scope: str, name: str) -> str:
        """Return somebody's key of a scope."""
        if name not in self._made:
            self._made[name] = self.keys.create("setup", scope, name=name)
        assert self._made[name].scope == scope
        return self._made[name].key

    def approver(self, name: str) -> str:
        return self.key("approver", name)

    def revoke(self, name: str) -> None:
        self.keys.revoke("setup", self._made[name].key_id)

    def waiting(self, session_id: str) -> str:
        """Return the id of the one approval that a session waits for, once there is one."""
        sql = "SELECT approval_id FROM approval WHERE state = 'pending' AND session_id = ?"
        (row,) = eventually(lambda: self.store.read.query(sql, (session_id,)))
        return str(row[0])

    def hold(self, tool: Callable[..., Any], *arguments: Any, agent: str = "bookkeeper") -> str:
        """Have an agent ask for what people must agree to; return the approval's id."""
        with tappass_session(url=self.database, agent=agent) as session, pytest.raises(ApprovalRequired):
            tool(*arguments)
        return self.waiting(session.session_id)

    @contextmanager
    def client(self, key: str) -> Iterator[httpx.Client]:
        """Yield somebody who speaks HTTP by hand, logged in."""
        with httpx.Client(base_url=self.url, trust_env=False, headers={"Origin": self.url}) as client:
            answer = client.post("/login", data={"key": key})
            assert answer.status_code == 303, answer.text
            yield client

    def state(self, approval_id: str) -> str:
        row = self.store.read.row("SELECT state FROM approval WHERE approval_id = ?", (approval_id,))
        assert row is not None
        return str(row[0])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@contextmanager
def placed(directory: Path, database: str = "") -> Iterator[Place]:
    """Yield a server of a fresh directory, on a database of its own or another."""
    port = free_port()
    (directory / "policy.yaml").write_text(POLICY)
    (directory / "tappass.toml").write_text(f'[server]\nurl = "http://127.0.0.1:{port}"\n')
    with serve(directory, database=database or None, port=port) as served:
        made = Place(served, database)
        yield made
        made.store.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with placed(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture
def somebody(browser: Browser) -> Iterator[Callable[..., Person]]:
    """Yield what makes people, each at a browser of their own; at the end no page of theirs has run anything."""
    opened: list[Any] = []
    people: list[Person] = []

    def make(**options: Any) -> Person:
        opened.append(person(browser, **options))
        people.append(opened[-1].__enter__())
        return people[-1]

    yield make
    for each in opened:
        each.__exit__(None, None, None)
    assert [alarm for each in people for alarm in each.alarms if not alarm.startswith("console: Failed to load")] == []


def person_named(name: str) -> Approver:
    """Return a person as those take them who are told who acts."""
    return Approver(person_id=f"per_{name}", name=name, key_id=f"key_{name}")


def eventually(look: Callable[[], T], within_s: float = 15) -> T:
    """Return what a look at something finds, once it finds anything."""
    pause, until = threading.Event(), time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < until, "it never came"
        pause.wait(0.02)
    return found


def csrf_in(html: str) -> str:
    return html.split('name="csrf" value="')[1].split('"')[0]
