"""The action of one call, and the call itself as the flow sees it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from tappass.enforcement.latch import Latch
from tappass.enforcement.projection import Encoders, Unprojectable, encoded, escape, project
from tappass.enforcement.verdicts import printable
from tappass.errors import TapPassConfigError
from tappass.wire.chat import Usage
from tappass.wire.codec import canonical
from tappass.wire.correlation import Correlation
from tappass.wire.decisions import Action, Decision, DecisionRequest, ToolDefinition
from tappass.wire.endings import CANCELLED, FAILED, Ending
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS
from tappass.wire.obligations import ScanResult
from tappass.wire.refusals import BreakGlass

# What this enforcement point carries out; a plane must not allow a call on the strength of anything else.
CAPABILITIES = ("redact_arguments", "scan_result")


RAISE, WAIT = "raise", "wait"


class Scope(Protocol):
    """What the flow needs to know of the session that a call belongs to."""

    @property
    def session_id(self) -> str:
        """The session's id."""
        ...

    @property
    def correlation(self) -> Correlation:
        """The session's ids; `task_id` is empty."""
        ...

    @property
    def latch(self) -> Latch | None:
        """Where refusals are kept; None for an implicit session."""
        ...

    @property
    def raise_on_redaction(self) -> bool:
        """Raise RedactionApplied instead of handing over a redacted value."""
        ...

    @property
    def respect_breakglass(self) -> bool:
        """Go on under an emergency override rather than raise BreakGlassActive."""
        ...

    @property
    def resume_token(self) -> str:
        """The approval whose call is being resumed here, "" for none."""
        ...

    @property
    def on_approval(self) -> str:
        """`raise`: ApprovalRequired at once; `wait`: hold the call until people have decided."""
        ...

    @property
    def approval_timeout_s(self) -> float | None:
        """How long a call waits for people before it raises; None: until the approval expires."""
        ...

    def note_break_glass(self, break_glass: BreakGlass) -> None:
        """Note that a call here met an emergency override, whether or not it went on under it."""
        ...


Rebind = Callable[[dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]
Show = Callable[[Any], tuple[Any, bool]]


class Call:
    """One governed call: its action, what to run, and the clock that times it.

    `rebind` turns arguments that were changed by name into what is to be passed; `originals` are the arguments by
    name before projection. The result of an `unseen` call is shown to nobody here, so that it is refused where policy
    asks for that; `scan` is, once it is decided, the obligation that its result is under. `show` is how a result is
    shown for inspection, None for any other than the usual way; `doubt` what speaks against the tool, as
    `DecisionRequest` has it.
    """

    __slots__ = (
        "_approval_timeout_s",
        "_on_approval",
        "_raise_on_redaction",
        "_respect_breakglass",
        "action",
        "args",
        "definition",
        "doubt",
        "kwargs",
        "model",
        "originals",
        "rebind",
        "resume_token",
        "run",
        "scan",
        "scope",
        "show",
        "started_ns",
        "task_id",
        "unseen",
        "usage",
    )

    def __init__(
        self,
        action: Action,
        scope: Scope,
        run: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        originals: dict[str, Any],
        rebind: Rebind,
        definition: ToolDefinition | None = None,
        raise_on_redaction: bool | None = None,
        respect_breakglass: bool | None = None,
        task_id: str = "",
        resume_token: str = "",
        on_approval: str | None = None,
        approval_timeout_s: float | None = None,
    ) -> None:
        self.action = action
        self.scope = scope
        self.run = run
        self.args = args
        self.kwargs = kwargs
        self.originals = originals
        self.rebind = rebind
        self.definition = definition
        self._raise_on_redaction = raise_on_redaction
        self._respect_breakglass = respect_breakglass
        self.task_id = task_id or UUID_IDS.new("tsk")
        self.resume_token = resume_token or scope.resume_token
        self._on_approval = on_approval
        self._approval_timeout_s = approval_timeout_s
        self.show: Show | None = None
        self.doubt, self.unseen = "", False
        self.started_ns = SYSTEM_CLOCK.monotonic_ns()
        self.model = ""
        self.usage: Usage | None = None
        self.scan: ScanResult | None = None

    # What the call itself says, else its session: looked up where it matters, which is in few calls.

    @property
    def raise_on_redaction(self) -> bool:
        """Raise RedactionApplied instead of handing over a redacted value."""
        return self.scope.raise_on_redaction if self._raise_on_redaction is None else self._raise_on_redaction

    @property
    def respect_breakglass(self) -> bool:
        """Go on under an emergency override rather than raise BreakGlassActive."""
        return self.scope.respect_breakglass if self._respect_breakglass is None else self._respect_breakglass

    def waits(self) -> bool:
        """Tell whether the call holds on for people, and still has time to."""
        on_approval = self.scope.on_approval if self._on_approval is None else self._on_approval
        return on_approval == WAIT and self.left_s() > 0

    def left_s(self) -> float:
        """Return how long the call may still wait for people, in seconds."""
        timeout_s = self.scope.approval_timeout_s if self._approval_timeout_s is None else self._approval_timeout_s
        if timeout_s is None:
            return math.inf
        return timeout_s - (SYSTEM_CLOCK.monotonic_ns() - self.started_ns) / 1e9

    def request(self) -> DecisionRequest:
        """Return the question to the plane."""
        return DecisionRequest(
            action=self.action,
            session_id=self.scope.session_id,
            task_id=self.task_id,
            capabilities=CAPABILITIES,
            definition=self.definition,
            resume_token=self.resume_token,
            doubt=self.doubt,
        )

    def ending(
        self,
        status: str,
        error: BaseException | None = None,
        *,
        scan: ScanResult | None = None,
        result: Any = msgspec.UNSET,
        opaque: bool = False,
        **seen: Any,
    ) -> Ending:
        """Return how the call ended; `seen` is what a stream's scanner found."""
        return Ending(
            session_id=self.scope.session_id,
            task_id=self.task_id,
            status=status,
            duration_us=(SYSTEM_CLOCK.monotonic_ns() - self.started_ns) // 1000,
            error_type=type(error).__name__ if error is not None else "",
            scan=scan,
            result=result,
            opaque=opaque,
            model=self.model,
            usage=self.usage,
            **seen,
        )


def project_arguments(
    name: str, arguments: dict[str, Any], encoders: Encoders
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a call's arguments in JSON types, and which of them stood for richer ones.

    Raises:
        TapPassConfigError: an argument has no projection, so policy could not see what the tool would get.
    """
    types: dict[str, str] = {}
    projected = {}
    key = ""
    try:
        if not name.isascii():
            project(name, "", types, {})
        for key, value in arguments.items():
            if not key.isascii():
                project(key, "", types, {})
            where = "/" + escape(key)
            if encoders and key in encoders:
                projected[key] = project(encoders[key](value), where, types, encoders)
                types[where] = encoded(types.get(where))
            else:
                projected[key] = project(value, where, types, encoders)
    except Unprojectable as error:
        # Not where inside the argument: a key on the way there may be what nobody must see.
        what, remedy = "its name", "give it another"
        if key:
            what = f"argument `{printable(key)}`"
            remedy = f"pass JSON types, or declare an encoder: @tool(encoders={{'{printable(key)}': ...}})"
        raise TapPassConfigError(
            f"`{printable(name)}` was not run: {what} cannot be shown to policy ({error.why}); {remedy}"
        ) from None
    return projected, types


def action_bytes(action: Action) -> bytes:
    """Return the bytes that tell one action from another: same tool, same definition, same arguments.

    Numbers count by value (120 equals 120.0); a projected value counts with its type.
    """
    return canonical(
        (
            action.kind,
            action.name,
            action.server,
            action.definition_digest,
            _by_value(action.arguments),
            action.types,
        )
    )


def _by_value(value: Any) -> Any:
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if type(value) is dict:
        return {key: _by_value(item) for key, item in value.items()}
    if type(value) is list:
        return [_by_value(item) for item in value]
    return value


def status_of(error: BaseException) -> str:
    """Return how a call ended that ended with this error; a generator's exit is the driver's to settle."""
    if isinstance(error, KeyboardInterrupt | SystemExit) or is_cancellation(error):
        return CANCELLED
    return FAILED


def is_cancellation(error: BaseException) -> bool:
    """Tell whether an error is asyncio's or trio's cancellation, without importing either."""
    for module, name in (("asyncio", "CancelledError"), ("trio", "Cancelled")):
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return True
    return False


def refused_with(decision: Decision) -> bool:
    """Tell whether a decision is anything but a plain yes."""
    return decision.outcome != "allow" or decision.refusal is not None
