"""How long a caller waits for people, and what waiting leads to."""

from __future__ import annotations

import math

import msgspec

from tappass.errors import ApprovalRequired, TapPassConnectionError
from tappass.wire.chat import ChatRequest
from tappass.wire.endings import Ending, Settlement
from tappass.wire.ids import SYSTEM_CLOCK

AWAY_S = 60.0
AGAIN_S = 1.0


class Patience:
    """The time that is left of a wait; None or infinity: until the approval expires.

    A server that is away for a minute, as in a restart, does not end it.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._until_s = math.inf if timeout_s is None else _now_s() + timeout_s
        self._away_since_s = 0.0

    def left_s(self) -> float:
        """Return how many seconds are left."""
        return max(0.0, self._until_s - _now_s())

    def answered(self) -> None:
        """Note that the server is there."""
        self._away_since_s = 0.0

    def after(self, error: TapPassConnectionError) -> float:
        """Return how long to pause before the server is asked again.

        Raises:
            TapPassConnectionError: it has been away for too long.
        """
        now_s = _now_s()
        self._away_since_s = self._away_since_s or now_s
        if now_s - self._away_since_s > AWAY_S or self.left_s() <= 0:
            raise error
        return AGAIN_S


def resumed(request: ChatRequest, held: ApprovalRequired) -> ChatRequest:
    """Return the turn that redeems an approval."""
    return msgspec.structs.replace(request, resume_token=held.resume_token)


def unscanned(ending: Ending) -> Settlement | None:
    """Return the settlement of an ending that no detector needs to see the result of, None where one does."""
    if ending.scan is None or ending.result is msgspec.UNSET:
        return Settlement(findings=ending.findings)
    # Nothing can be found in these, and half of all tools return one of them.
    if not ending.opaque and (ending.result is None or ending.result is True or ending.result is False):
        return Settlement()
    return None


def _now_s() -> float:
    return SYSTEM_CLOCK.monotonic_ns() / 1e9
