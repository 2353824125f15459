"""Requests that come twice: the second time they are answered as the first time, and change nothing."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import msgspec

from tappass import forking
from tappass.enforcement.action import action_bytes
from tappass.engine.leaves import Leaves
from tappass.engine.store.ahead import Ask
from tappass.engine.store.port import Tx
from tappass.errors import TapPassConfigError
from tappass.wire.codec import canonical, decode, encode
from tappass.wire.decisions import ALLOW, BLOCK, Decision, DecisionRequest
from tappass.wire.ids import Clock, rfc3339

KEPT_S = 24 * 3600

# Its whole key and nothing else: asked for the time as well, a planner that knows no sizes yet takes the index of
# times, and then reads all that the organisation was answered today.
_ONE = "SELECT request_hmac, response, expires_at FROM idempotency WHERE org_id = ? AND key = ?"
_KEEP = (
    "INSERT INTO idempotency (org_id, key, request_hmac, response, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (org_id, key) DO UPDATE SET request_hmac = excluded.request_hmac, response = excluded.response,"
    " created_at = excluded.created_at, expires_at = excluded.expires_at"
)
_SWEEP = (
    "DELETE FROM idempotency WHERE org_id = ? AND key IN"
    " (SELECT key FROM idempotency WHERE org_id = ? AND expires_at <= ? ORDER BY expires_at LIMIT ?)"
)


class RequestConflict(TapPassConfigError):
    """Another request was made under the same id; nothing was decided, and nothing may run."""


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What a question is recognised by: whose it is and under which id, and what exactly was asked."""

    key: str
    request_hmac: bytes
    at: str = ""


class Replays:
    """The answers of one project's last day, by the id under which each was asked for.

    Args:
        leaves: whose they are.
        key: returns the key under which requests are compared; kept outside the log.
        clock: what time it is.
    """

    def __init__(self, leaves: Leaves, key: Callable[[], bytes], clock: Clock) -> None:
        self._leaves, self._make_key, self._clock = leaves, key, clock
        self._made = b""

    @property
    def _key(self) -> bytes:
        self._made = self._made or self._make_key()
        return self._made

    def asked(self, request: DecisionRequest, credential: str) -> Asked:
        """Return what a question is recognised by.

        Not by its token, trace context and definition: whoever asks again after people agreed may bring another.
        """
        bare = (action_bytes(request.action), request.session_id, request.capabilities)
        told = canonical(bare)
        key = f"decide:{credential}:{_digest(request.task_id)}"
        secret = self._key
        with forking.unforked:
            return Asked(key, hmac.digest(secret, b"request\0" + told, hashlib.sha256), self._now())

    def ask(self, asked: Asked) -> Ask:
        """Return what `recall` asks."""
        return _ONE, (self._leaves.org_id, asked.key)

    def recall(self, tx: Tx, asked: Asked) -> Decision | None:
        """Return the answer that a question got before, None if it is to be decided.

        Raises:
            RequestConflict: something else was asked under this id.
        """
        row = tx.execute(*self.ask(asked)).fetchone()
        if row is None or row[2] <= asked.at:
            return None
        if not hmac.compare_digest(bytes(row[0]), asked.request_hmac):
            raise RequestConflict(
                "another call was decided under this id (`behavior_id`); nothing was decided: give each call its own"
            )
        return decode(bytes(row[1]), Decision) if row[1] is not None else None

    def keep(self, tx: Tx, asked: Asked, decision: Decision) -> None:
        """Keep an answer; one that waits for people is only kept in mind, and decided again when it is asked again."""
        response = encode(decision) if decision.outcome in (ALLOW, BLOCK) else None
        self._keep(tx, asked.key, asked.request_hmac, response)

    def first(self, tx: Tx, key: str) -> bool:
        """Tell whether a request comes for the first time, and remember it."""
        row = tx.execute(_ONE, (self._leaves.org_id, key)).fetchone()
        if row is not None and row[2] > self._now():
            return False
        self._keep(tx, key, b"", None)
        return True

    def sweep(self, tx: Tx, most: int) -> int:
        """Forget what was asked more than a day ago, so much of it at most; return how much that was."""
        org_id = self._leaves.org_id
        return tx.execute(_SWEEP, (org_id, org_id, self._now(), most)).rowcount

    def _keep(self, tx: Tx, key: str, request_hmac: bytes, response: bytes | None) -> None:
        now_ns = self._clock.time_ns()
        until = rfc3339(now_ns + KEPT_S * 1_000_000_000)
        tx.put(_KEEP, (self._leaves.org_id, key, request_hmac, response, rfc3339(now_ns), until))

    def _now(self) -> str:
        return rfc3339(self._clock.time_ns())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:40]
