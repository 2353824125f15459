"""Servers over one database, as far as the engine goes: each with a store, a plane and a memory of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tappass.engine.approver import Approver
from tappass.engine.audit.keys import LogKey
from tappass.engine.engine import Engine
from tappass.engine.leaves import ORG, PROJECT, Leaves
from tappass.engine.policy.files import PolicySources
from tappass.engine.store.port import Store
from tappass.engine.trust import Agents
from tappass.plane.embedded import EmbeddedPlane
from tappass.wire.decisions import Action, DecisionRequest
from tappass.wire.endings import Ending
from tappass.wire.events import AuditEvent
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock
from tappass.wire.sessions import Opening

ADA = Approver(person_id="per_ada", name="ada", key_id="")
BOB = Approver(person_id="per_bob", name="bob", key_id="")
EVE = Approver(person_id="per_eve", name="eve", key_id="")
SECRET = b"k" * 32
POLICY = """
version: 1
rules:
  - {id: ask, tool: pay, effect: require_approval}
  - {id: never, tool: wipe, effect: block}
  - {id: vip, tool: greet, when: 'session.metadata.user == "ann@acme.com"', effect: block}
"""
ABLE = ("redact_arguments", "scan_result")


class Servers:
    """Several engines over one database; all they have in common is what it holds."""

    def __init__(self, open_store: Callable[[], Store], policy: str = POLICY, clock: Clock = SYSTEM_CLOCK) -> None:
        self._open_store, self._policy, self.clock = open_store, policy, clock
        self._stores: list[Store] = []
        self.a, self.b = self.start(), self.start()
        self.agent = self.register("crew")
        self._people()

    def start(self, settings: str = "", policy: str = "", org_id: str = ORG, project_id: str = PROJECT) -> Engine:
        """Start another server."""
        store = self._open_store()
        self._stores.append(store)
        return self.plane(store, settings, policy or self._policy, org_id, project_id).engine

    def plane(self, store: Store, settings: str, policy: str, org_id: str, project_id: str) -> EmbeddedPlane:
        return EmbeddedPlane(
            store,
            None,
            url="http://plane",
            log_key=LogKey(SECRET),
            equality_key=lambda: SECRET,
            sources=PolicySources.of(policy, settings),
            clock=self.clock,
            org_id=org_id,
            project_id=project_id,
            shared=True,
        )

    def register(self, name: str, org_id: str = ORG, project_id: str = PROJECT) -> str:
        """Register an agent; return its uuid."""
        store = self._stores[0].scoped(org_id)
        return Agents(store, Leaves(self.clock, org_id, project_id), self.clock).add(EVE, name).agent_uuid

    def _people(self) -> None:
        rows = [(each.person_id, ORG, each.name) for each in (ADA, BOB)]
        sql = "INSERT INTO person (person_id, org_id, name, roles, created_at) VALUES (?, ?, ?, '', '')"
        self._stores[0].run(lambda tx: [tx.execute(sql, row) for row in rows])

    def open(self, server: Engine | None = None, **opening: Any) -> str:
        """Open a session of the agent."""
        return (server or self.a).open(Opening(**opening), self.agent).session_id

    def events(self, type_: str = "", org_id: str = ORG) -> list[AuditEvent]:
        """Return what is in the log, of one type or all of it."""
        for store in self._stores:
            store.flush()
        found = self._stores[0].scoped(org_id).read.all_events(org_id=org_id)
        return [event for event in found if event.type.startswith(type_)]

    def count(self, type_: str) -> int:
        return len([event for event in self.events() if event.type == type_])

    def close(self) -> None:
        for store in self._stores:
            store.close()


def question(
    session_id: str, tool: str = "look", task_id: str = "", token: str = "", **arguments: Any
) -> DecisionRequest:
    return DecisionRequest(
        action=Action(kind="tool", name=tool, arguments=arguments),
        session_id=session_id,
        task_id=task_id or UUID_IDS.new("tsk"),
        capabilities=ABLE,
        resume_token=token,
    )


def ending(session_id: str, task_id: str, **fields: Any) -> Ending:
    return Ending(session_id=session_id, task_id=task_id, **{"status": "completed", "duration_us": 5, **fields})


def database(directory: Path) -> Path:
    return directory / "tappass.db"
