"""Events and whole calls to write, for tests of the store and the log."""

from __future__ import annotations

from tappass.engine.store.reading import DEFAULT_ORG, DEFAULT_PROJECT
from tappass.wire.events import AuditEvent
from tappass.wire.ids import uuid7_hex

ORG, PROJECT, SESSION = DEFAULT_ORG, DEFAULT_PROJECT, "ses_0"
AGENT, PIPELINE = "6f0c1d0e-0000-4000-8000-000000000001", "6f0c1d0e-0000-5000-8000-000000000002"


def task() -> str:
    return f"tsk_{uuid7_hex()}"


def event(type: str = "call.decided", task_id: str = "", **fields) -> AuditEvent:  # noqa: A002
    values = {"org_id": ORG, "project_id": PROJECT, "session_id": SESSION, "outcome": "allow", "name": "pay"}
    if type == "call.ended":
        values |= {"outcome": "", "status": "completed"}
    values |= {"agent_uuid": AGENT, "pipeline_uuid": PIPELINE, **fields}
    return AuditEvent(at="2026-01-31T09:30:00.000001Z", type=type, task_id=task_id, **values)


def decide(store, task_id: str, content: bytes | None = b'{"amount":12}', **fields) -> AuditEvent:
    def write(tx):
        return tx.append(event("call.decided", task_id, **fields), content)

    return store.run(write)


def ending(task_id: str, **fields):
    def write(tx):
        tx.append(event("call.ended", task_id, **fields))

    return write
