"""A session's memory of its refusals: the same call gets the same answer, whatever a framework does with it."""

from __future__ import annotations

import copy
import os
import threading
from collections import OrderedDict

from tappass.errors import ApprovalRequired, GovernanceDecision

LIMIT = 256

# Per process: an HMAC so that a latch, if it leaks, does not let anybody guess arguments.
_key = os.urandom(32)


def latch_key(action: bytes, pipeline_uuid: str) -> bytes:
    """Return what one action under one pipeline is remembered by."""
    import hmac  # only a refusal needs it

    return hmac.digest(_key, pipeline_uuid.encode() + b"\0" + action, "sha256")


class Latch:
    """The refusals of one session, the oldest forgotten beyond `LIMIT`.

    `last` is the refusal that a guard raises again when its unit ends as if nothing had been refused.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, GovernanceDecision] = OrderedDict()
        self.last: GovernanceDecision | None = None

    def __bool__(self) -> bool:
        return bool(self._known)

    def find(self, key: bytes) -> GovernanceDecision | None:
        """Return the refusal of this very action to be raised anew, or None."""
        known = self._known.get(key)
        # A copy: the same object raised in two threads would mix their tracebacks.
        return None if known is None else copy.copy(known)

    def keep(self, key: bytes, refusal: GovernanceDecision) -> None:
        """Remember a refusal. One that waits for people is asked again each time: they may have answered."""
        with self._lock:
            self.last = refusal
            if not isinstance(refusal, ApprovalRequired):
                self._known[key] = refusal
                while len(self._known) > LIMIT:
                    self._known.popitem(last=False)
