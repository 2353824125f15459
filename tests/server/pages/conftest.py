"""A real server on a real file, agents that call in this process, people with keys of every scope."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tappass.engine.approver import Approver, Approvers
from tappass.engine.keys import Keys
from tappass.engine.leaves import Leaves
from tappass.engine.store.sqlite import SqliteStore
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
SETUP = Approver(person_id="per_setup", name="setup", key_id="key_setup")


class Place:
    """One database with a server over it, and what people and agents do there."""

    def __init__(self, served: Served) -> None:
        self.served, self.url = served, served.url
        self.database = f"sqlite:///{served.directory}/.tappass/tappass.db"
        self.store = SqliteStore(served.directory / ".tappass/tappass.db")
        self.leaves = Leaves(SYSTEM_CLOCK)
        self.approvers = Approvers(self.store, self.leaves)
        self.agents = Agents(self.store, self.leaves)
        self._keys: dict[str, str] = {}

    def approver(self, name: str) -> str:
        """Return that person's approver key."""
        if name not in self._keys:
            self._keys[name] = self.approvers.add(SETUP, name)
        return self._keys[name]

    def key(self, scope: str, label: str = "") -> str:
        """Return a fresh key of a scope that is nobody's by name."""
        keys = Keys(self.store, self.leaves)
        return self.store.run(lambda tx: keys._make(tx, "setup", scope, label=label or scope)).key

    def waiting(self) -> str:
        """Return the id of the one approval that waits, once there is one."""
        found: list[Any] = []
        until = threading.Event()
        for _ in range(200):
            found = self.store.read.query("SELECT approval_id FROM approval WHERE state = 'pending'")
            if found:
                break
            until.wait(0.05)
        (row,) = found
        return str(row[0])

    def state(self, approval_id: str) -> str:
        row = self.store.read.row("SELECT state FROM approval WHERE approval_id = ?", (approval_id,))
        assert row is not None
        return str(row[0])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("served")
    port = free_port()
    (directory / "policy.yaml").write_text(POLICY)
    (directory / "tappass.toml").write_text(f'[server]\nurl = "http://127.0.0.1:{port}"\n')
    with serve(directory, port=port) as served:
        made = Place(served)
        yield made
        made.store.close()


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


def directory_of(place: Place) -> Path:
    return place.served.directory
