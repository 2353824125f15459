"""The five ids on every response, error and event."""

from __future__ import annotations

import msgspec


class Correlation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a call belongs. It places a call and never authenticates anybody.

    `session_id` (`ses_…`) and `task_id` (`tsk_…`) are UUIDv7 in hex with a prefix, `agent_uuid` and
    `pipeline_uuid` are UUIDs, `audit_url` is the page of the session.
    """

    session_id: str = ""
    task_id: str = ""
    agent_uuid: str = ""
    pipeline_uuid: str = ""
    audit_url: str = ""
