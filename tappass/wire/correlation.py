"""The five ids on every response, error and event."""

from __future__ import annotations

from typing import Any

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

    @classmethod
    def of(cls, told: Any) -> Correlation:
        """Return the five ids of anything that carries them: an error, an answer, a body."""
        return cls(**{name: getattr(told, name) for name in cls.__struct_fields__})
