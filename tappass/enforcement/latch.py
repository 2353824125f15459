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

    `last` is the refusal that a guard raises again when its unit ends as if nothing had been refused.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, GovernanceDecision] = OrderedDict()
        self.last: GovernanceDecision | None = None
        self._last_key = b""

    def __bool__(self) -> bool:
        return bool(self._known)

    def find(self, key: bytes) -> GovernanceDecision | None:
        """Return the refusal of this very action to be raised anew, or None."""
        known = self._known.get(key)
        # A copy: the same object raised in two threads would mix their tracebacks.
        return None if known is None else copy.copy(known)

    def passed(self, key: bytes) -> None:
        """Note that an action was let run: a refusal of it is no longer what a guard brings back."""
        with _lock:
            if key == self._last_key:
                self.last, self._last_key = None, b""

    def keep(self, key: bytes, refusal: GovernanceDecision) -> None:
        """Remember a refusal; what may have changed is asked again: what people say, what is left of a budget."""
        with _lock:
            self.last, self._last_key = refusal, key
            if not isinstance(refusal, _CHANGEABLE) and not refusal_of_budget(refusal):
                # Without its traceback, which would keep every frame and argument on the way alive.
                self._known[key] = copy.copy(refusal)
                while len(self._known) > LIMIT:
                    self._known.popitem(last=False)
