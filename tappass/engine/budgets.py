"""Budgets: what calls may spend, checked and spent in the transaction that decides them.

A tool call spends itself. A chat turn reserves the most that it may take; its ending puts what it took in the place of
that, in the transaction that records it. Until then, or for ever if its process dies, the reservation counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from tappass.engine.gate import Gate
from tappass.engine.leaves import Leaves
from tappass.engine.metering import (
    AGENT,
    CALL,
    DAY,
    LLM_TOKENS,
    MICRO,
    SESSION,
    TOOL_CALLS,
    USD,
    Meter,
    Unbounded,
    amount,
    cost,
    limit_of,
    most_tokens,
    quantity,
    tokens_of,
)
from tappass.engine.policy.facts import TOOL
from tappass.engine.policy.policy import Policy
from tappass.engine.recalled import Open
from tappass.engine.store.port import Tx
from tappass.wire.decisions import ALLOW
from tappass.wire.endings import COMPLETED, Ending
from tappass.wire.ids import Clock, rfc3339
from tappass.wire.sessions import OBSERVE

if TYPE_CHECKING:
    from tappass.engine.judgement import Judgement

_USED = (
    "SELECT used FROM budget WHERE org_id = ? AND project_id = ? AND scope = ? AND subject = ? AND period = ?"
    " AND unit = ?"
)
_SPEND = (
    "INSERT INTO budget (org_id, project_id, scope, subject, period, unit, used) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (org_id, project_id, scope, subject, period, unit) DO UPDATE SET used = excluded.used"
)
_RESERVED = (
    "SELECT period, unit, used FROM budget WHERE org_id = ? AND project_id = ? AND scope = 'call' AND subject = ?"
    " ORDER BY unit"
)
_RELEASE = "DELETE FROM budget WHERE org_id = ? AND project_id = ? AND scope = 'call' AND subject = ?"
# UNION, not UNION ALL: sessions that were recorded in a circle end too.
_AROUND = (
    "WITH RECURSIVE up (session_id, parent, pipeline_uuid) AS ("
    "SELECT session_id, parent, pipeline_uuid FROM session WHERE session_id = ? AND org_id = ?"
    " UNION SELECT s.session_id, s.parent, s.pipeline_uuid FROM session s JOIN up ON s.session_id = up.parent"
    " WHERE s.org_id = ?)"
    " SELECT up.session_id, v.bundle FROM up JOIN policy_version v ON v.pipeline_uuid = up.pipeline_uuid"
    " WHERE v.org_id = ? AND v.project_id = ?"
)
_MOST_KNOWN = 1024
_MOST = 2**62


class Spending(msgspec.Struct, frozen=True, gc=False):
    """What one call is about to spend: of which meters, how much of each measure, and what they stood at before."""

    day: str
    takes: dict[str, int]
    meters: tuple[tuple[Meter, int], ...]


class Budgets(Gate):
    """Counts what one project's sessions spend, and refuses the call that would spend more than there is.

    Sessions whose policy neither limits nor reads what is spent are not counted and pay nothing.
    """

    def __init__(self, leaves: Leaves, clock: Clock) -> None:
        self._keys = (leaves.org_id, leaves.project_id)
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[Meter, ...]] = {}

    def facts(self, tx: Tx, judged: Judgement) -> dict[str, int | float]:
        """Return what rules read of budgets, by name (`session.usd`): what is spent before this call.

        Of the scope `call` it is the most that this call may take. What is not known is left out.
        """
        opened = judged.opened
        wanted = opened.pipeline.policy.budget_facts
        if not wanted:
            return {}
        day = self._day()
        own = [m for m in self._meters(tx, opened) if not m.inherited and m.name in wanted]
        try:
            takes = self._takes(judged, own)
        except Unbounded:
            takes = {}
        used = {m.name: takes.get(m.measure) if m.scope == CALL else self._used(tx, m, day) for m in own}
        return {name: n / MICRO if name.endswith(USD) else n for name, n in used.items() if n is not None}

    def check(self, tx: Tx, judged: Judgement) -> None:
        """Refuse a call that would spend more than is left; what it is going to spend is noted, not yet spent."""
        opened = judged.opened
        if not opened.pipeline.policy.metered and not opened.record.parent:
            return
        meters = self._meters(tx, opened)
        if judged.refusal is not None or not meters:
            return
        day = self._day()
        try:
            takes = self._takes(judged, meters)
        except Unbounded as problem:
            refused = next(m for m in meters if m.measure in (LLM_TOKENS, USD))
            self._refuse(judged, refused, f"blocked by the budget `{refused.name}`: {problem}")
            return
        taken = [m for m in meters if m.measure in takes]
        known = tuple((m, 0 if m.scope == CALL else self._used(tx, m, day)) for m in taken)
        judged.spending = Spending(day, takes, known)
        judged.budgets = tuple([m.entry(used) for m, used in known])
        for meter, used in known:
            if meter.limit is not None and used + takes[meter.measure] > meter.limit:
                self._refuse(judged, meter, _over(meter, used, takes[meter.measure], day))
                return

    def spend(self, tx: Tx, judged: Judgement) -> None:
        """Spend what was noted, if the call may run; one that is refused or held spends nothing."""
        spending = judged.spending
        if spending is None or judged.outcome != ALLOW:
            return
        after = [(m, min(used + spending.takes[m.measure], _MOST)) for m, used in spending.meters]
        for meter, used in after:
            if meter.scope != CALL:
                self._set(tx, meter, spending.day, used)
        judged.budgets = tuple([m.entry(used) for m, used in after])
        action, task_id = judged.request.action, judged.request.task_id
        if action.kind != TOOL:
            for measure, taken in spending.takes.items():
                unit = f"{measure}:{action.name}" if measure == USD else measure
                tx.execute(_SPEND, (*self._keys, CALL, task_id, spending.day, unit, taken))

    def ended(self, tx: Tx, opened: Open, ending: Ending) -> tuple[tuple[str, ...], bool]:
        """Put what a call took in the place of what it had reserved.

        Returns:
            What it took (`llm_tokens:10`), and whether that is the reservation, because nobody said what it took.
        """
        if not opened.pipeline.policy.metered and not opened.record.parent:
            return (), False
        meters = self._meters(tx, opened)
        rows = tx.execute(_RESERVED, (*self._keys, ending.task_id)).fetchall() if meters else ()
        if not rows:
            return (), False
        tx.execute(_RELEASE, (*self._keys, ending.task_id))
        counted = tokens_of(ending.usage)
        entries = []
        for day, unit, reserved in rows:
            measure, _, asked = unit.partition(":")
            took = 0 if not ending.ran else reserved
            if ending.ran and counted is not None:
                took = sum(counted) if measure == LLM_TOKENS else self._cost(opened, asked, ending.model, counted)
                # A stream that broke off may have been counted so far only.
                took = took if ending.status == COMPLETED else max(took, reserved)
            for meter in meters:
                if meter.measure == measure and meter.scope != CALL:
                    self._set(tx, meter, day, max(0, self._used(tx, meter, day) + took - reserved))
            entries.append(f"{measure}:{amount(measure, took)}")
        return tuple(entries), ending.ran and counted is None

    def _takes(self, judged: Judgement, meters: Iterable[Meter]) -> dict[str, int]:
        """Return the most that a call may take, of each measure that is counted."""
        counted = {m.measure: m for m in meters}
        action, settings = judged.request.action, judged.opened.pipeline.settings
        if action.kind == TOOL:
            return {TOOL_CALLS: 1} if TOOL_CALLS in counted else {}
        if LLM_TOKENS not in counted and USD not in counted:
            return {}
        prompt, answer = most_tokens(action, judged.everywhere, settings.limits.completion_tokens)
        takes = {LLM_TOKENS: prompt + answer} if LLM_TOKENS in counted else {}
        if USD in counted:
            price = settings.price_for(action.name)
            if price is None:
                raise Unbounded(
                    f"what the model costs is not known; add it to the settings, under [prices]: "
                    f'"{action.name}" = {{input = ..., output = ...}}, in USD for a million tokens'
                )
            takes[USD] = min(cost(price, prompt, answer), _MOST)
        return takes

    def _cost(self, opened: Open, asked: str, answered: str, counted: tuple[int, int]) -> int:
        """Return what a turn cost: by the model that was asked, or by the one that answered if that is dearer."""
        prices = [opened.pipeline.settings.price_for(model) for model in (asked, answered) if model]
        return min(max((cost(price, *counted) for price in prices if price is not None), default=0), _MOST)

    def _refuse(self, judged: Judgement, meter: Meter, reason: str) -> None:
        judged.block(f"budget.{meter.name}", reason)
        if judged.opened.record.mode == OBSERVE:
            judged.relax()

    def _used(self, tx: Tx, meter: Meter, day: str) -> int:
        row = tx.execute(_USED, (*self._keys, *_place(meter, day))).fetchone()
        return int(row[0]) if row else 0

    def _set(self, tx: Tx, meter: Meter, day: str, used: int) -> None:
        tx.execute(_SPEND, (*self._keys, *_place(meter, day), used))

    def _day(self) -> str:
        return rfc3339(self._clock.time_ns())[:10]

    def _meters(self, tx: Tx, opened: Open) -> tuple[Meter, ...]:
        """Return what is counted in a session: by its own policy, and of the sessions around it by theirs."""
        session_id = opened.record.session_id
        # A session that is reopened is under the policy of then.
        key = (session_id, opened.record.pipeline_uuid)
        known = self._known.get(key)
        if known is None:
            subjects = {SESSION: session_id, AGENT: opened.record.agent_uuid}
            meters = [Meter(s, subjects.get(s, ""), m, limit) for s, m, limit in counted_by(opened.pipeline.policy)]
            if opened.record.parent:
                meters += self._around(tx, opened.record.parent)
            # Sessions come and go: forget all rather than grow.
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            known = self._known[key] = tuple(meters)
        return known

    def _around(self, tx: Tx, parent: str) -> Iterable[Meter]:
        org_id, project_id = self._keys
        for session_id, bundle in tx.execute(_AROUND, (parent, org_id, org_id, org_id, project_id)).fetchall():
            for scope, measure, limit in counted_by(Policy.from_bundle(bundle)):
                if scope == SESSION:
                    yield Meter(scope, session_id, measure, limit, inherited=True)


def counted_by(policy: Policy) -> list[tuple[str, str, int | None]]:
    """Return the scopes and measures that a policy limits or that its rules read, with their limits, sorted."""
    limits: dict[str, int | None] = dict.fromkeys(policy.budget_facts)
    limits |= {f"{budget.scope}.{budget.measure}": limit_of(budget) for budget in policy.document.budgets}
    return [(*_split(name), limits[name]) for name in sorted(limits)]


def _split(name: str) -> tuple[str, str]:
    scope, _, measure = name.partition(".")
    return scope, measure


def _place(meter: Meter, day: str) -> tuple[str, str, str, str]:
    return meter.scope, meter.subject, day if meter.scope == DAY else "", meter.measure


def _over(meter: Meter, used: int, takes: int, day: str) -> str:
    """Return why a call does not fit: which budget, how much of it is used, what the call may take."""
    limit, words = meter.limit or 0, meter.words(day)
    if meter.scope == CALL:
        return f"blocked: {words} is less than the {quantity(meter.measure, takes)} that it may take"
    if used >= limit:
        return f"blocked: {words} is used up ({amount(meter.measure, used)} used)"
    return (
        f"blocked: {words} has {amount(meter.measure, limit - used)} left ({amount(meter.measure, used)} used), "
        f"and this call may take {amount(meter.measure, takes)}"
    )
