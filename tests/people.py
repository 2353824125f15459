"""People with approver keys, and a clock that is set by hand: what tests of tiers, pins and break-glass need."""

from __future__ import annotations

from typing import Any

from tappass.engine.approver import Approver
from tappass.engine.breakglass import BreakGlasses, BreakGlassRow
from tappass.engine.leaves import Leaves
from tappass.engine.pins import Pins
from tappass.engine.trust import Agents
from tappass.testing import MemoryPlane
from tappass.wire.ids import SYSTEM_CLOCK, Clock

ADA = Approver(person_id="per_1", name="ada", key_id="key_1")
BOB = Approver(person_id="per_2", name="bob", key_id="key_2")
SECOND = 1_000_000_000


class HandClock:
    """Two clocks that stand still: the wall clock may be set anywhere, the other one only goes on."""

    def __init__(self) -> None:
        self.wall_ns = 1_800_000_000 * SECOND
        self.run_ns = 0

    def time_ns(self) -> int:
        return self.wall_ns

    def monotonic_ns(self) -> int:
        return self.run_ns

    def pass_s(self, seconds: int) -> None:
        self.wall_ns += seconds * SECOND
        self.run_ns += seconds * SECOND

    def set_by(self, seconds: int) -> None:
        """Set the wall clock alone."""
        self.wall_ns += seconds * SECOND


class People:
    """What people do at one plane."""

    def __init__(self, plane: MemoryPlane, clock: Clock = SYSTEM_CLOCK) -> None:
        store, leaves = plane.plane.engine.store, Leaves(clock)
        self.plane = plane
        self.agents = Agents(store, leaves, clock)
        self.pins = Pins(store, leaves, clock)
        self.glasses = BreakGlasses(store, leaves, clock)

    def break_glass(self, level: str = "relax", scope: str = "*", seconds: int = 600) -> BreakGlassRow:
        """Have two people open an override."""
        asked = self.glasses.activate(ADA, level, scope, "a test", seconds)
        return self.glasses.confirm(BOB, asked.break_glass_id)

    def types(self, beginning: str) -> list[tuple[str, str]]:
        """Return type and actor of the leaves whose type begins so."""
        return [(event.type, event.actor) for event in self.plane.events() if event.type.startswith(beginning)]


def voter(engine: Any, name: str) -> Approver:
    """Return somebody who may approve, as their key would identify them."""
    engine.store.run(
        lambda tx: tx.execute(
            "INSERT INTO person (person_id, org_id, name, roles, created_at) VALUES (?, 'org_local', ?, 'approver', '')"
            " ON CONFLICT DO NOTHING",
            (f"per_{name}", name),
        )
    )
    return Approver(person_id=f"per_{name}", name=name, key_id=f"key_{name}")


def agree(engine: Any) -> int:
    """Have somebody approve all that waits; return how many that were."""
    held = engine.voting.list()
    for row in held:
        assert engine.voting.approve(row.approval_id, voter(engine, "ann"), "ok").state == "approved"
    return len(held)


def disagree(engine: Any) -> int:
    """Have somebody deny all that waits; return how many that were."""
    held = engine.voting.list()
    for row in held:
        assert engine.voting.deny(row.approval_id, voter(engine, "ann"), "no").state == "denied"
    return len(held)
