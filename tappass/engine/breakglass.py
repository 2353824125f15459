"""Break-glass: an emergency override that two people open, that ends by itself, and that is reviewed afterwards.

`requested` becomes `active` by a second person's word, and `ended` or `expired` for good: no state leads back.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from tappass.engine.approver import Approver
from tappass.engine.leaves import Leaves
from tappass.engine.policy import globs
from tappass.engine.store.port import Store, Tx
from tappass.engine.words import reasoned, worded
from tappass.errors import TapPassConfigError
from tappass.wire.codec import canonical
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock, Ids, rfc3339

RELAX, BYPASS_STEP, FULL_BYPASS = "relax", "bypass_step", "full_bypass"
LEVELS = (RELAX, BYPASS_STEP, FULL_BYPASS)
REQUESTED, ACTIVE, ENDED, EXPIRED = "requested", "active", "ended", "expired"

LONGEST_S = 24 * 3600
# A request that nobody answers is no standing offer.
ANSWER_S = 3600
# How far a clock may be set back before an override counts as over.
TOLERATED_NS = 5_000_000_000

_FIELDS = (
    "break_glass_id, level, scope, reason, state, duration_s, activated_by, activated_at, confirmed_by, confirmed_at,"
    " expires_at, seen_at, ended_by, ended_at, reviewed_by, reviewed_at, review"
)
_LIST = f"SELECT {_FIELDS} FROM break_glass WHERE org_id = ? ORDER BY activated_at, break_glass_id"  # noqa: S608
_ONE = f"SELECT {_FIELDS} FROM break_glass WHERE org_id = ? AND break_glass_id = ?"  # noqa: S608
_LIVE = f"SELECT {_FIELDS} FROM break_glass WHERE org_id = ? AND state IN ('requested', 'active')"  # noqa: S608
_NEW = (
    "INSERT INTO break_glass (break_glass_id, org_id, project_id, level, scope, reason, state, duration_s,"
    " activated_by, activated_at, seen_at, changed_seq) VALUES (?, ?, ?, ?, ?, ?, 'requested', ?, ?, ?, ?, ?)"
)
_CONFIRM = (
    "UPDATE break_glass SET state = 'active', confirmed_by = ?, confirmed_at = ?, expires_at = ?, seen_at = ?,"
    " changed_seq = ? WHERE break_glass_id = ?"
)
_END = "UPDATE break_glass SET state = ?, ended_by = ?, ended_at = ?, changed_seq = ? WHERE break_glass_id = ?"
_SEE = "UPDATE break_glass SET seen_at = ? WHERE break_glass_id = ?"
_REVIEW = (
    "UPDATE break_glass SET reviewed_by = ?, reviewed_at = ?, review = ?, changed_seq = ? WHERE break_glass_id = ?"
)


class BreakGlassRow(msgspec.Struct, frozen=True, kw_only=True):
    """One override: what was asked for, who agreed, how it ended, what was found afterwards."""

    break_glass_id: str
    level: str
    scope: str
    reason: str
    state: str
    duration_s: int
    activated_by: str
    activated_at: str
    confirmed_by: str
    confirmed_at: str
    expires_at: str
    seen_at: str
    ended_by: str
    ended_at: str
    reviewed_by: str
    reviewed_at: str
    review: str

    @property
    def unreviewed(self) -> bool:
        """It was in force, is over, and nobody has said yet what came of it."""
        return self.state in (ENDED, EXPIRED) and bool(self.confirmed_at) and not self.reviewed_at


class Scope(msgspec.Struct, frozen=True):
    """What an override is about: globs over names of tools and models, and over those of agents."""

    name: str
    agent: str

    def covers(self, name: str, agent: str) -> bool:
        """Tell whether a call of that tool or model, by that agent, is meant."""
        return globs.matches(self.name, name) and globs.matches(self.agent, agent)


def scope_of(text: str) -> Scope:
    """Return the scope that is written as `pay*`, `agent:bookkeeper`, or `pay* agent:bookkeeper`.

    Raises:
        TapPassConfigError: it is written otherwise.
    """
    words = text.split()
    agents = [word.removeprefix("agent:") for word in words if word.startswith("agent:")]
    names = [word for word in words if not word.startswith("agent:")]
    if not words or len(agents) > 1 or len(names) > 1 or not all(agents) or len(text) > globs.LONGEST:
        raise TapPassConfigError(
            "the scope is a glob over tool names, over agents, or both: `pay*`, `agent:NAME`, `pay* agent:NAME`"
        )
    return Scope(names[0] if names else "*", agents[0] if agents else "*")


class BreakGlasses:
    """The overrides of one organisation. Whoever changes something here has shown an approver key."""

    def __init__(self, store: Store, leaves: Leaves, clock: Clock = SYSTEM_CLOCK, ids: Ids = UUID_IDS) -> None:
        self._store, self._leaves = store, leaves
        self._clock, self._ids = clock, ids

    def all(self) -> list[BreakGlassRow]:
        """Return every override, oldest first, those whose time is over as such."""
        self._store.run(self._sweep)
        return [row_of(row) for row in self._store.read.query(_LIST, (self._leaves.org_id,))]

    def activate(self, by: Approver, level: str, scope: str, reason: str, duration_s: int) -> BreakGlassRow:
        """Ask for an override; it is in force once a second person confirms it.

        Raises:
            TapPassConfigError: level, scope, reason or duration is not one.
        """
        if level not in LEVELS:
            raise TapPassConfigError(f"the level `{level}` is unknown; use one of {', '.join(LEVELS)}")
        if not 1 <= duration_s <= LONGEST_S:
            raise TapPassConfigError(f"a break-glass lasts from 1 second to 24 hours, not {duration_s} seconds")
        scope_of(scope)
        words, body = worded(reason, "the reason"), reasoned(reason)
        scope = " ".join(scope.split())
        glass_id, at = self._ids.new("bgl"), rfc3339(self._clock.time_ns())
        owner = (glass_id, self._leaves.org_id, self._leaves.project_id)
        details = {"level": level, "scope": ascii(scope)[1:-1], "duration_s": str(duration_s)}

        def write(tx: Tx) -> BreakGlassRow:
            seq = self._leaf(tx, "requested", glass_id, by.name, body, **details)
            tx.execute(_NEW, (*owner, level, scope, words, duration_s, by.name, at, at, seq))
            return self._changed(tx, glass_id)

        return self._store.run(write)

    def confirm(self, by: Approver, glass_id: str) -> BreakGlassRow:
        """Put a requested override in force, as a second person.

        Raises:
            TapPassConfigError: it is not waiting, or waits for somebody else than who asked for it.
        """

        def write(tx: Tx) -> BreakGlassRow:
            row = self._find(tx, glass_id)
            _must(row, REQUESTED, "confirmed")
            if row.activated_by == by.name:
                raise TapPassConfigError(f"`{by.name}` asked for {glass_id}; somebody else must confirm it")
            now = max(self._clock.time_ns(), parsed(row.seen_at))
            expires = rfc3339(now + row.duration_s * 1_000_000_000)
            seq = self._leaf(tx, "confirmed", glass_id, by.name, level=row.level, expires_at=expires)
            tx.execute(_CONFIRM, (by.name, rfc3339(now), expires, rfc3339(now), seq, glass_id))
            return self._changed(tx, glass_id)

        return self._swept(write)

    def end(self, by: Approver, glass_id: str, reason: str = "") -> BreakGlassRow:
        """End an override early, or take a request back; any approver may.

        Raises:
            TapPassConfigError: it is over already, or there is no such override.
        """
        body = reasoned(reason) if reason.strip() else None

        def write(tx: Tx) -> BreakGlassRow:
            row = self._find(tx, glass_id)
            _must(row, (REQUESTED, ACTIVE), "ended")
            now = rfc3339(max(self._clock.time_ns(), parsed(row.seen_at)))
            seq = self._leaf(tx, "ended", glass_id, by.name, body)
            tx.execute(_END, (ENDED, by.name, now, seq, glass_id))
            return self._changed(tx, glass_id)

        return self._swept(write)

    def review(self, by: Approver, glass_id: str, text: str) -> BreakGlassRow:
        """Say what came of an override that is over.

        Raises:
            TapPassConfigError: it is not over, was never in force, or is reviewed already.
        """
        words = worded(text, "the review")

        def write(tx: Tx) -> BreakGlassRow:
            row = self._find(tx, glass_id)
            _must(row, (ENDED, EXPIRED), "reviewed")
            if not row.unreviewed:
                what = f"was reviewed by {row.reviewed_by} already" if row.reviewed_at else "was never in force"
                raise TapPassConfigError(f"{glass_id} {what}; there is nothing to review")
            seq = self._leaf(tx, "reviewed", glass_id, by.name, canonical({"review": words}))
            tx.execute(_REVIEW, (by.name, rfc3339(self._clock.time_ns()), words, seq, glass_id))
            return self._changed(tx, glass_id)

        return self._swept(write)

    def expand(self, beginning: str) -> str:
        """Return the id that begins so.

        Raises:
            TapPassConfigError: none does, or several do.
        """
        found = [row.break_glass_id for row in self.all() if row.break_glass_id.startswith(beginning)]
        if len(found) != 1:
            how = "several break-glasses begin" if found else "no break-glass begins"
            raise TapPassConfigError(f"{how} with `{beginning}`; see `tappass break-glass list`")
        return found[0]

    def _swept(self, write: Callable[[Tx], BreakGlassRow]) -> BreakGlassRow:
        # By itself: what is over stays over and on record, also where the change asked for is refused.
        self._store.run(self._sweep)
        return self._store.run(write)

    def _sweep(self, tx: Tx) -> None:
        for row in tx.execute(_LIVE, (self._leaves.org_id,)).fetchall():
            see(tx, self._leaves, row_of(row), self._clock.time_ns())

    def _find(self, tx: Tx, glass_id: str) -> BreakGlassRow:
        found = find(tx, self._leaves.org_id, glass_id)
        if found is None:
            raise TapPassConfigError(f"there is no break-glass `{glass_id}`; see `tappass break-glass list`")
        return found

    def _changed(self, tx: Tx, glass_id: str) -> BreakGlassRow:
        tx.controlled(self._leaves.org_id)
        return self._find(tx, glass_id)

    def _leaf(self, tx: Tx, what: str, glass_id: str, actor: str, body: bytes | None = None, **details: str) -> int:
        event = self._leaves.event(f"break_glass.{what}", actor=actor, details={"break_glass": glass_id, **details})
        return tx.append(event, body).seq


def find(tx: Tx, org_id: str, glass_id: str) -> BreakGlassRow | None:
    """Return an override as it is in this transaction."""
    row = tx.execute(_ONE, (org_id, glass_id)).fetchone()
    return None if row is None else row_of(row)


def see(tx: Tx, leaves: Leaves, row: BreakGlassRow, now_ns: int, *, over: bool = False) -> bool:
    """Note that an override was seen at that time; return whether it still lives, and expire it where it does not.

    The latest time that any process saw counts. A clock that was set back ends it: nobody knows how long it has been.
    """
    seen = parsed(row.seen_at)
    until = parsed(row.expires_at) if row.state == ACTIVE else parsed(row.activated_at) + ANSWER_S * 1_000_000_000
    if not over and now_ns < until and seen < until and now_ns > seen - TOLERATED_NS:
        if now_ns > seen:
            tx.execute(_SEE, (rfc3339(now_ns), row.break_glass_id))
        return True
    why = "clock-set-back" if now_ns <= seen - TOLERATED_NS else "time"
    at = rfc3339(max(now_ns, seen))
    details = {"break_glass": row.break_glass_id, "old": row.state, "why": why}
    seq = tx.append(leaves.event("break_glass.expired", actor="clock", details=details)).seq
    tx.execute(_END, (EXPIRED, "clock", at, seq, row.break_glass_id))
    tx.controlled(leaves.org_id)
    return False


def parsed(at: str) -> int:
    """Return an RFC 3339 time of our own writing as nanoseconds since 1970."""
    from datetime import datetime

    return round(datetime.fromisoformat(at).timestamp() * 1_000_000) * 1000


_DURATION = re.compile(r"(?:(\d{1,5})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?")


def seconds_of(text: str) -> int:
    """Return the seconds of a duration such as `30m`, `1h30m`, `45s`, `90d`.

    Raises:
        TapPassConfigError: it is none.
    """
    found = _DURATION.fullmatch(text) if text else None
    if found is None:
        raise TapPassConfigError(f"`{text}` is no duration; write `30m`, `1h30m`, `45s` or `90d`")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return days * 86_400 + hours * 3600 + minutes * 60 + seconds


def row_of(row: tuple[object, ...]) -> BreakGlassRow:
    """Return an override from its row."""
    return BreakGlassRow(**dict(zip(BreakGlassRow.__struct_fields__, row, strict=True)))  # type: ignore[arg-type]


def _must(row: BreakGlassRow, states: str | tuple[str, ...], what: str) -> None:
    if row.state not in states:
        raise TapPassConfigError(f"{row.break_glass_id} is {row.state}, so it cannot be {what}")
