"""A session: an open unit of work, as the calls inside it see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tappass.enforcement.action import RAISE, WAIT
from tappass.enforcement.effects import running
from tappass.enforcement.latch import Latch
from tappass.errors import TapPassConfigError, TapPassError
from tappass.session.stamps import Stamps
from tappass.wire.correlation import Correlation
from tappass.wire.sessions import OBSERVE

if TYPE_CHECKING:
    from tappass.enforcement.port import Plane
    from tappass.wire.refusals import BreakGlass
    from tappass.wire.sessions import SessionRecord

OPEN, COMPLETED, FAILED, SUSPENDED = "open", "completed", "failed", "suspended"
TELL = "tell"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asked for; the innermost that says anything wins, None says nothing.

    `on_block` is a guard's: `raise`, or `tell` the model and go on.
    """

    raise_on_redaction: bool | None = None
    respect_breakglass: bool | None = None
    on_approval: str | None = None
    approval_timeout_s: float | None = None
    on_block: str | None = None

    def __post_init__(self) -> None:
        if self.on_approval not in (None, RAISE, WAIT):
            raise TapPassConfigError(f"on_approval={self.on_approval!r} is unknown; use {RAISE!r} or {WAIT!r}")
        if self.on_block not in (None, RAISE, TELL):
            raise TapPassConfigError(f"on_block={self.on_block!r} is unknown; use {RAISE!r} or {TELL!r}")

    def of_call(self) -> dict[str, Any]:
        """Return what they say of one call, as `Call` takes it."""
        return {
            "raise_on_redaction": self.raise_on_redaction,
            "respect_breakglass": self.respect_breakglass,
            "on_approval": self.on_approval,
            "approval_timeout_s": self.approval_timeout_s,
        }

    def over(self, outer: Options) -> Options:
        """Return these options, with the outer ones where these say nothing."""
        said = {name: getattr(self, name) for name in self.__struct_fields__}
        return Options(**{name: getattr(outer, name) if value is None else value for name, value in said.items()})


class Session:
    """An open unit of work.

    Attributes:
        session_id, agent_uuid, pipeline_uuid, audit_url: the session's correlation.
        name, agent: what it was opened as, and who acts.
        mode: enforce, or observe (decides and records, but lets policy's refusals pass).
        parent: the id of the session around it, "" at the top.
        status: open, completed, failed or suspended.
        break_glass: the emergency override that a call in it met last, None if none did.
    """

    def __init__(self, record: SessionRecord, plane: Plane, options: Options, *, latch: Latch | None) -> None:
        self.session_id = record.session_id
        self.agent_uuid = record.agent_uuid
        self.pipeline_uuid = record.pipeline_uuid
        self.audit_url = record.audit_url
        self.name = record.name
        self.agent = record.agent
        self.mode = record.mode
        self.parent = record.parent
        self.status = OPEN
        self.plane = plane
        self.options = options
        self.latch = latch
        self.resume_token = ""
        self._stamps = Stamps()
        self.break_glass: BreakGlass | None = None
        self.correlation = Correlation(
            session_id=record.session_id,
            agent_uuid=record.agent_uuid,
            pipeline_uuid=record.pipeline_uuid,
            audit_url=record.audit_url,
        )

    def __repr__(self) -> str:
        return f"Session({self.session_id!r}, name={self.name!r}, status={self.status!r})"

    def stamp(self, audience: str) -> str:
        """Return a token that places one receiver's calls in this session, for its `tappass-correlation` header.

        It lives for minutes and is good for whoever presents it first. Asked again for the same receiver, in the same
        call, it is the same one until shortly before it expires.

        Args:
            audience: the receiver's name or url, as that one knows itself.

        Raises:
            TapPassConfigError: the session is closed.
            TapPassConnectionError: the plane cannot be reached.
        """
        asked = (audience, self.task_id)
        return self._stamps.get(asked) or self._stamps.keep(asked, self.plane.sync.stamp(self.session_id, *asked))

    async def stamp_async(self, audience: str) -> str:
        """Return a token that places one receiver's calls in this session. The async twin of `stamp`."""
        asked = (audience, self.task_id)
        kept = self._stamps.get(asked)
        return kept or self._stamps.keep(asked, await self.plane.aio.stamp(self.session_id, *asked))

    def note_break_glass(self, break_glass: BreakGlass) -> None:
        """Note that a call met an emergency override, whether or not it went on under it."""
        self.break_glass = break_glass

    def let_stand(self, error: TapPassError) -> None:
        """Let an error of ours stand that came before any question: a guard brings it back."""
        if self.latch is not None:
            self.latch.note(type(error).__name__.encode() + str(error).encode(), error)

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

    @property
    def on_approval(self) -> str:
        """What calls do that wait for people: `raise` ApprovalRequired, or `wait`."""
        return self.options.on_approval or RAISE

    @property
    def approval_timeout_s(self) -> float | None:
        """How long calls wait for people, in seconds; None: until the approval expires."""
        return self.options.approval_timeout_s

    @property
    def standing(self) -> TapPassError | None:
        """The refusal that a guard brings back when its unit ends, None if none stands, or in no guard's session."""
        return self.latch.last if self.latch is not None else None

    @property
    def on_block(self) -> str:
        """What a guard makes of a refusal: `raise` it, or `tell` the model and go on."""
        return self.options.on_block or RAISE
