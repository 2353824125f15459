"""What people have set, besides policy: tiers, pins, break-glass; cached until somebody changes any of it.

The log's row carries a number that every such change raises. A deciding transaction reads that row anyway, so a
change by any process counts from its commit on, and a call that needs none of this pays nothing for it.
"""

from __future__ import annotations

import msgspec

from tappass.engine.store.port import Tx

_TIERS = "SELECT agent_uuid, tier FROM agent WHERE org_id = ?"
_BREAK_GLASS = (
    "SELECT break_glass_id, level, scope, expires_at FROM break_glass WHERE org_id = ? AND state = 'active'"
    " ORDER BY break_glass_id"
)
_PINS = "SELECT server, name, digest, state FROM pin WHERE org_id = ? AND project_id = ?"


class Override(msgspec.Struct, frozen=True):
    """A break-glass that is in force until `expires_at` (RFC 3339, UTC)."""

    break_glass_id: str
    level: str
    scope: str
    expires_at: str


class Controls:
    """The state under one number; immutable.

    Attributes:
        number: what it was read under; -1 before anything was.
        overrides: break-glasses that were active then; each may have expired since.
        pins: state by (server, name, digest).
    """

    __slots__ = ("_tiers", "number", "overrides", "pins")

    def __init__(
        self,
        number: int = -1,
        tiers: dict[str, str] | None = None,
        overrides: tuple[Override, ...] = (),
        pins: dict[tuple[str, str, str], str] | None = None,
    ) -> None:
        self.number = number
        self.overrides = overrides
        self.pins = pins or {}
        self._tiers = tiers or {}

    def tier(self, agent_uuid: str, otherwise: str) -> str:
        """Return an agent's trust tier now."""
        return self._tiers.get(agent_uuid, otherwise)


def read_controls(tx: Tx, org_id: str, project_id: str) -> Controls:
    """Read the state as it is in this transaction."""
    return Controls(
        tx.control(org_id),
        dict(tx.execute(_TIERS, (org_id,)).fetchall()),
        tuple(Override(*row) for row in tx.execute(_BREAK_GLASS, (org_id,)).fetchall()),
        {(row[0], row[1], row[2]): row[3] for row in tx.execute(_PINS, (org_id, project_id)).fetchall()},
    )
