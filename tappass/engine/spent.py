"""What is spent now of each budget, as people read it."""

from __future__ import annotations

from typing import Any

import msgspec

from tappass.engine.budgets import counted_by
from tappass.engine.metering import AGENT, CALL, DAY, SESSION, amount
from tappass.engine.policy.policy import Policy
from tappass.engine.store.reading import DEFAULT_ORG, DEFAULT_PROJECT, Reader

_USED = "SELECT scope, subject, unit, used FROM budget WHERE org_id = ? AND project_id = ? AND scope <> 'call'"
_DAY = f"{_USED} AND (scope <> 'day' OR period = ?)"
_AGENTS = "SELECT agent_uuid, name FROM agent WHERE org_id = ? AND project_id = ? ORDER BY name"
_SESSIONS = (
    "SELECT s.session_id, s.name, v.bundle FROM session s JOIN policy_version v ON v.org_id = s.org_id"
    " AND v.project_id = s.project_id AND v.pipeline_uuid = s.pipeline_uuid"
    " WHERE s.org_id = ? AND s.project_id = ? AND s.status = 'open'"
    " ORDER BY s.opened_at DESC, s.session_id DESC LIMIT ?"
)


class BudgetLine(msgspec.Struct, frozen=True, kw_only=True):
    """One budget and what is spent of it; reservations of turns that have not ended are part of that.

    `subject` is a session's or an agent's id and `name` its name; of a day it is the date. `used` and `limit` are
    decimal numbers as text, and `limit` is "" where a rule reads what is spent and nothing limits it.
    """

    scope: str
    measure: str
    subject: str
    name: str = ""
    used: str
    limit: str = ""


def budget_lines(
    read: Reader,
    policy: Policy,
    day: str,
    *,
    sessions: int,
    org_id: str = DEFAULT_ORG,
    project_id: str = DEFAULT_PROJECT,
) -> list[BudgetLine]:
    """Return what is spent of a policy's budgets: of the day, of each agent, of the newest open sessions.

    Args:
        read: the database.
        policy: the one in force; a session's own limits are those of the policy that it was opened under.
        day: the date, UTC.
        sessions: how many sessions at most.
        org_id: whose.
        project_id: which of its projects.
        org_id, project_id: whose they are.
    """
    keys = (org_id, project_id)
    used = {(scope, subject, unit): n for scope, subject, unit, n in read.query(_DAY, (*keys, day))}
    lines = _lines(used, policy, DAY, "", day, "")
    for agent_uuid, name in read.query(_AGENTS, keys):
        lines += _lines(used, policy, AGENT, agent_uuid, agent_uuid, name)
    known: dict[bytes, Policy] = {}
    for session_id, name, bundle in read.query(_SESSIONS, (*keys, sessions)):
        own = known.get(bundle) or known.setdefault(bundle, Policy.from_bundle(bundle))
        lines += _lines(used, own, SESSION, session_id, session_id, name)
    return lines


def limits_of_calls(policy: Policy) -> list[BudgetLine]:
    """Return the budgets for single calls, of which nothing is ever used up."""
    return _lines({}, policy, CALL, "", "", "")


def _lines(used: dict[Any, int], policy: Policy, scope: str, key: str, subject: str, name: str) -> list[BudgetLine]:
    return [
        BudgetLine(
            scope=scope,
            measure=measure,
            subject=subject,
            name=name,
            used=amount(measure, used.get((scope, key, measure), 0)),
            limit="" if limit is None else amount(measure, limit),
        )
        for of, measure, limit in counted_by(policy)
        if of == scope
    ]
