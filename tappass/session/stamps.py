"""The correlation tokens of one session that are still good: a retry to a receiver takes the one it took before."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from tappass.wire.service import Stamp

_MOST = 256
# A token must outlive the request that carries it.
_MARGIN_S = 60.0

Asked: TypeAlias = tuple[str, str]


class Stamps:
    """Tokens by receiver and task, until shortly before they expire; bounded."""

    def __init__(self) -> None:
        self._kept: dict[Asked, tuple[str, float]] = {}

    def get(self, asked: Asked) -> str:
        """Return the token that was kept, "" if there is none or its time is nearly up."""
        token, until = self._kept.get(asked, ("", 0.0))
        return token if time.time() < until else ""

    def keep(self, asked: Asked, stamp: Stamp) -> str:
        """Keep a token; return it."""
        now, expires = time.time(), datetime.fromisoformat(stamp.expires_at).timestamp()
        while len(self._kept) >= _MOST:
            self._kept.pop(next(iter(self._kept)), None)
        # Of one that lives for less than a few minutes, most of its life.
        self._kept[asked] = (stamp.token, expires - min(_MARGIN_S, (expires - now) / 4))
        return stamp.token
