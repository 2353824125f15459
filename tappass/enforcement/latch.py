"""A session's memory of its refusals: the same call gets the same answer, whatever a framework does with it."""

from __future__ import annotations

import copy
import os
from collections import OrderedDict

from tappass import forking
from tappass.errors import (
    ApprovalRequired,
    BreakGlassActive,
    GovernanceDecision,
    PolicyBlockError,
    TapPassError,
    ToolIntegrityViolation,
    TrustTierDenied,
)

LIMIT = 256
# What people can change while the session is open.
_CHANGEABLE = (ApprovalRequired, TrustTierDenied, ToolIntegrityViolation, BreakGlassActive)

# Per process: an HMAC so that a latch, if it leaks, does not let anybody guess arguments.
_key = os.urandom(32)
# One for all: it is held for a moment, and sessions are many.
_lock = forking.Lock()


def latch_key(action: bytes, pipeline_uuid: str) -> bytes:
    """Return what one action under one pipeline is remembered by."""
    import hmac  # only a refusal needs it

    with forking.unforked:
        return hmac.digest(_key, pipeline_uuid.encode() + b"\0" + action, "sha256")


def refusal_of_budget(refusal: GovernanceDecision) -> bool:
    """Tell whether a budget refused: another call may give back what it had reserved, and a day ends."""
    return isinstance(refusal, PolicyBlockError) and refusal.blocked_by.startswith("budget.")


class Latch:
    """The refusals of one session, the oldest forgotten beyond `LIMIT`.

    What was refused, or failed to be recorded, *stands* until the same action is let run, or the model was told: a
    guard raises the last that stands when its unit ends as if nothing had been refused.

    Args:
        brings_back: a guard's. In any other session nothing stands: nobody would ever ask, and what stands keeps the
            frames that it came through.
    """

    def __init__(self, *, brings_back: bool = True) -> None:
        self.brings_back = brings_back
        self._known: OrderedDict[bytes, GovernanceDecision] = OrderedDict()
        self._standing: OrderedDict[bytes, TapPassError] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._known)

    @property
    def last(self) -> TapPassError | None:
        """The error that a guard brings back, None if none stands."""
        with _lock:
            return next(reversed(self._standing.values()), None)

    @property
    def stands(self) -> bool:
        """Whether any refusal stands; takes no lock."""
        return bool(self._standing)

    def find(self, key: bytes) -> GovernanceDecision | None:
        """Return the refusal of this very action to be raised anew, or None."""
        known = self._known.get(key)
        # A copy: the same object raised in two threads would mix their tracebacks.
        return None if known is None else copy.copy(known)

    def passed(self, key: bytes) -> None:
        """Note that an action was let run: a refusal of it is no longer what a guard brings back."""
        with _lock:
            self._standing.pop(key, None)

    def told(self, error: TapPassError) -> None:
        """Note that the model was told of an error instead: it no longer stands."""
        with _lock:
            for key in [key for key, stands in self._standing.items() if _alike(stands, error)]:
                del self._standing[key]

    def note(self, key: bytes, error: TapPassError) -> None:
        """Let an error stand that is asked about anew each time: a result withheld, a plane that cannot be reached."""
        if not self.brings_back:
            return
        with _lock:
            if any(stands is error for stands in self._standing.values()):
                return  # it came through another call
            self._standing[key] = error
            self._standing.move_to_end(key)
            while len(self._standing) > LIMIT:
                self._standing.popitem(last=False)

    def keep(self, key: bytes, refusal: GovernanceDecision) -> None:
        """Remember a refusal; what may have changed is asked again: what people say, what is left of a budget."""
        self.note(key, refusal)
        with _lock:
            if not isinstance(refusal, _CHANGEABLE) and not refusal_of_budget(refusal):
                # Without its traceback, which would keep every frame and argument on the way alive.
                self._known[key] = copy.copy(refusal)
                while len(self._known) > LIMIT:
                    self._known.popitem(last=False)


def _alike(one: TapPassError, other: TapPassError) -> bool:
    return one is other or (type(one) is type(other) and str(one) == str(other))
