"""When a request is sent again: written once, as a generator that does no I/O.

It yields None for "send it" and is sent the reply, or yields how many seconds to pause before that.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from typing import TypeAlias

import httpx

from tappass.plane.exchange import Asking, Reply, unreachable

DELAYS_S = (0.05, 0.2, 0.6, 1.5)
LONGEST_RETRY_AFTER_S = 5.0
_AGAIN = frozenset({429, 500, 502, 503, 504})

Attempts: TypeAlias = Generator[float | None, Reply | None, Reply]


def attempts(asking: Asking, name: str) -> Attempts:
    """Send a request, and again where that can do no harm: it is idempotent, and the plane was away or asks for it.

    Raises:
        TapPassConnectionError: there is no answer.
    """
    pauses = iter(DELAYS_S if asking.idempotent else ())
    while True:
        try:
            reply = yield None
        except httpx.TransportError as error:
            # A server that took the request and keeps silent has had its time.
            pause = None if isinstance(error, httpx.ReadTimeout) else _next(pauses)
            if pause is None:
                raise unreachable(asking, name) from None
        else:
            assert reply is not None, "the driver sends what came back"
            if reply.status not in _AGAIN or (pause := _pause(reply, pauses)) is None:
                return reply
        yield pause


def _next(pauses: Iterator[float]) -> float | None:
    delay = next(pauses, None)
    # Jitter: those who lost the server at the same time should not come back at the same time.
    return None if delay is None else delay * (0.5 + random.random())  # noqa: S311


def _pause(reply: Reply, pauses: Iterator[float]) -> float | None:
    delay = _next(pauses)
    asked = reply.headers.get("retry-after", "")
    if delay is None or not (asked.isascii() and asked.isdigit()):
        return delay
    return max(delay, float(asked)) if float(asked) <= LONGEST_RETRY_AFTER_S else None
