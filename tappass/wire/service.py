"""What else travels between a client and the server: health, agents, sessions, endings, reports, approvals, errors.

Shapes marked *fixed* are the contract with clients we did not write; they may grow by members with a default.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tappass.wire.endings import Ending

# Headers. The token places a call and never authenticates it; the options name what is wanted as an error.
CORRELATION, SESSION, OPTIONS = "tappass-correlation", "X-TapPass-Session", "X-TapPass-Options"
TASK, RESUME = "X-TapPass-Task", "X-TapPass-Resume"
RESPECT_BREAKGLASS, RAISE_ON_REDACTION = "respect_breakglass", "raise_on_redaction"
IDEMPOTENCY_KEY = "Idempotency-Key"

# The least version of a server that this client speaks to.
OLDEST_SERVER = (0, 6, 0)


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /health` (fixed). `version` is three integers with dots, `storage` is `sqlite` or `postgresql`."""

    status: str
    version: str
    storage: str
    agents: int
    uptime_seconds: float
    warnings: tuple[str, ...] = ()


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /agents/register` (fixed)."""

    agent_id: str
    framework: str = ""
    description: str = ""


class AgentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /agents/{uuid}` (fixed). `agent_id` is the agent's name, `registered_at` RFC 3339, UTC."""

    agent_uuid: str
    agent_id: str
    org_id: str
    framework: str
    description: str
    active: bool
    registered_at: str
    trust_tier: str


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a registration (fixed): the agent, and its key, which is shown this once and kept nowhere."""

    agent_uuid: str
    agent_id: str
    api_key: str
    org_id: str = ""
    framework: str = ""
    description: str = ""
    registered_at: str = ""
    trust_tier: str = ""
    key_id: str = ""

    def __repr__(self) -> str:
        return f"Credential(agent_id={self.agent_id!r}, agent_uuid={self.agent_uuid!r}, api_key=…)"


class Close(msgspec.Struct, frozen=True, kw_only=True):
    """`PATCH /sessions/{id}`: `status` is completed, failed or suspended.

    `openings` is the session's as its closer knows it: one that was reopened since stays open. 0 closes it anyhow.
    """

    status: str
    openings: int = 0


class Resumption(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /sessions/resume`: reopen the session whose call an approval holds; answered by its `SessionRecord`."""

    resume_token: str


class Stamping(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /sessions/{id}/stamp`: a token for one receiver; `task_id` is the call that it goes out from."""

    audience: str
    task_id: str = ""


class Stamp(msgspec.Struct, frozen=True, kw_only=True):
    """The token, and until when it is good (RFC 3339, UTC)."""

    token: str
    expires_at: str


class Joining(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /sessions/join`: enter the session that a token names; answered by its `SessionRecord`."""

    token: str
    audience: str


class Closing(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="close"):
    """A session's close as it waits in the outbox, behind the endings of its calls; `openings` as in `Close`."""

    session_id: str
    status: str
    openings: int = 0


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="ending"):
    """A call's ending as it waits in the outbox; `at` is when it ended (RFC 3339, UTC)."""

    ending: Ending
    at: str


# `POST /v1/endings`: an array of these, in order; answered as reports are.
Entry = Ended | Closing


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One element of `POST /v1/events` (fixed); recorded as `reported.<event_type>`."""

    event_type: str
    occurred_at: str
    agent_id: str = ""
    session_id: str = ""
    task_id: str = ""
    details: dict[str, Any] = {}


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to reports (fixed): all of them are durable; `duplicates` were so before."""

    accepted: int
    duplicates: int


class ApprovalRow(msgspec.Struct, frozen=True, kw_only=True):
    """An approval as its requester sees it (fixed).

    `state` is `pending`, `approved`, `denied`, `timed_out` or `cancelled`; one that was redeemed stays `approved`, and
    `redeemed_at` tells.
    """

    request_id: str
    state: str
    session_id: str
    task_id: str
    requested_at: str
    expires_at: str
    approval_url: str
    tool: str = ""
    message: str = ""
    approvers: int = 1
    approved_by: int = 0
    decided_by: str = ""
    decided_at: str = ""
    redeemed_at: str = ""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/me/approvals/wait`: wait by the token, which belongs in no url; answered by an `ApprovalRow`."""

    resume_token: str
    timeout_seconds: float = 30.0
