"""Opening a session, and what the plane knows of it then."""

from __future__ import annotations

from typing import Any

import msgspec

ENFORCE, OBSERVE = "enforce", "observe"
TIERS = ("untrusted", "limited", "standard", "trusted", "privileged")


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for a session. An `id` proposed by the caller is accepted idempotently; `agent` names who acts."""

    name: str = ""
    kind: str = "session"
    agent: str = ""
    id: str = ""
    parent: str = ""
    metadata: dict[str, Any] = {}
    mode: str = ""
    implicit: bool = False


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An open unit of work as its plane knows it; `mode` is enforce or observe, `tier` the agent's trust tier.

    `openings` counts how often it was opened, the first time included.
    """

    session_id: str
    agent_uuid: str
    pipeline_uuid: str
    audit_url: str
    name: str = ""
    agent: str = ""
    mode: str = ENFORCE
    tier: str = "standard"
    parent: str = ""
    openings: int = 1
