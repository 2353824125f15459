"""One leaf of the append-only audit log."""

from __future__ import annotations

import msgspec

LEAF_VERSION = 1


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, without its content: leaf version 1.

    Serialised by `codec.canonical`: no floats, integers below 2^53, ASCII keys, so those bytes equal RFC 8785.
    `content` is the SHA-256 (hex) of a 32-byte salt followed by the stored content bytes, or null where none is
    stored; `seq` counts from 0 without gaps within `log_id` and `epoch` grows when a log is restored or forked.
    `at` is RFC 3339, UTC, microseconds. `rules` and `findings` are sorted (`EMAIL:2` is two addresses).
    """

    v: int = LEAF_VERSION
    log_id: str = ""
    epoch: int = 0
    seq: int = 0
    at: str
    type: str
    org_id: str
    project_id: str
    session_id: str = ""
    task_id: str = ""
    agent_uuid: str = ""
    pipeline_uuid: str = ""
    audit_url: str = ""
    parent: str = ""
    approval_id: str = ""
    actor: str = ""
    kind: str = ""
    name: str = ""
    server: str = ""
    outcome: str = ""
    would_be: str = ""
    status: str = ""
    mode: str = ""
    tier: str = ""
    classification: str = ""
    blocked_by: str = ""
    rules: tuple[str, ...] = ()
    obligations: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    definition: str = ""
    error_type: str = ""
    duration_us: int = 0
    model: str = ""
    tokens: tuple[int, int] = (0, 0)
    budgets: tuple[str, ...] = ()
    traceparent: str = ""
    details: dict[str, str] = {}
    content: str | None = None
