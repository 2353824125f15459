"""A session: an open unit of work, as the calls inside it see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tappass.enforcement.effects import running
from tappass.enforcement.latch import Latch
from tappass.enforcement.port import Plane
from tappass.wire.correlation import Correlation
from tappass.wire.sessions import OBSERVE, SessionRecord

OPEN, COMPLETED, FAILED, SUSPENDED = "open", "completed", "failed", "suspended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a caller asked for; the innermost that says anything wins, None says nothing."""

    raise_on_redaction: bool | None = None
    respect_breakglass: bool | None = None

    def over(self, outer: Options) -> Options:
        """Return these options, with the outer ones where these say nothing."""
        return Options(
            raise_on_redaction=outer.raise_on_redaction if self.raise_on_redaction is None else self.raise_on_redaction,
            respect_breakglass=outer.respect_breakglass if self.respect_breakglass is None else self.respect_breakglass,
        )


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """An open unit of work.

    Attributes:
        session_id, agent_uuid, pipeline_uuid, audit_url: the session's correlation.
        task_id: the call that runs in this context, "" between calls.
        name, agent: what it was opened as, and who acts.
        mode: enforce, or observe (decides and records, but lets policy's refusals pass).
        parent: the id of the session around it, "" at the top.
        status: open, completed, failed or suspended.
    """

    session_id: str
    agent_uuid: str
    pipeline_uuid: str
    audit_url: str
    name: str
    agent: str
    mode: str
    parent: str
    plane: Plane = field(repr=False)
    options: Options = field(default=Options(), repr=False)
    latch: Latch | None = field(default=None, repr=False)
    status: str = OPEN
    correlation: Correlation = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.correlation = Correlation(
            session_id=self.session_id,
            agent_uuid=self.agent_uuid,
            pipeline_uuid=self.pipeline_uuid,
            audit_url=self.audit_url,
        )

    @property
    def task_id(self) -> str:
        """The id of the governed call that runs here and now, "" between calls: a tool's own idempotency key."""
        return running.get()

    @property
    def observed(self) -> bool:
        """Whether policy's refusals are only recorded."""
        return self.mode == OBSERVE

    @property
    def raise_on_redaction(self) -> bool:
        """Whether calls raise RedactionApplied instead of handing over a redacted value."""
        return bool(self.options.raise_on_redaction)

    @property
    def respect_breakglass(self) -> bool:
        """Whether calls go on under an emergency override."""
        return bool(self.options.respect_breakglass)


def session_from(record: SessionRecord, plane: Plane, options: Options, *, latch: Latch | None) -> Session:
    """Return the session for what a plane answered to its opening."""
    fields: dict[str, Any] = {
        name: getattr(record, name)
        for name in ("session_id", "agent_uuid", "pipeline_uuid", "audit_url", "name", "agent", "mode", "parent")
    }
    return Session(plane=plane, options=options, latch=latch, **fields)
