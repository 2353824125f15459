"""One leaf of the append-only audit log."""

from __future__ import annotations

import msgspec

LEAF_VERSION = 1


def _version() -> int:
    return LEAF_VERSION


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What happened, without its content: leaf version 1.

    Serialised by `codec.canonical`: no floats, integers below 2^53, ASCII keys, so those bytes equal RFC 8785.
    An absent member is the empty value of its type (`""`, `0`, `[]`, `{}`, `null`); every default here is that value,
    so a reader needs no table of defaults. `v` and `seq` are always written (their defaults are factories, which
    `omit_defaults` leaves alone), `log_id`, `epoch`, `at`, `type`, `org_id` and `project_id` are never empty.

    `content` is the SHA-256 (hex) of a 32-byte salt followed by the stored content bytes, or null where none is
    stored; `seq` counts from 0 without gaps within `log_id` and `epoch` grows when a log is restored or forked.
    `at` is RFC 3339, UTC, microseconds: when it happened, which for an ending may be earlier than its place in the
    log. `rules` and `findings` are sorted (`EMAIL:2` is two addresses). `tokens` is prompt and completion, or empty.
    """

    v: int = msgspec.field(default_factory=_version)
    log_id: str = ""
    epoch: int = 0
    seq: int = msgspec.field(default_factory=int)
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
    tokens: tuple[int, ...] = ()
    budgets: tuple[str, ...] = ()
    traceparent: str = ""
    details: dict[str, str] = {}
    content: str | None = None
