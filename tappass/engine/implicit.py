"""The session that calls belong to which name none: one for each agent and day, on whichever server they arrive."""

from __future__ import annotations

import uuid
from collections import OrderedDict

from tappass.engine.leaves import Leaves
from tappass.engine.pipelines import Pipelines
from tappass.engine.recalled import Open
from tappass.engine.sessions import Sessions
from tappass.wire.ids import Clock, rfc3339
from tappass.wire.sessions import Opening

_NAMESPACE = uuid.UUID("6f1f6a5e-5d0b-5f0e-9a53-6c1c5c1b7a10")
_LOOK_AGAIN_NS = 1_000_000_000
_REMEMBERED = 10_000


class ImplicitSessions:
    """The implicit sessions of one project's agents.

    Their ids follow from the agent, the day (UTC) and the policy in force, so that every server opens the same one
    and a policy that people accept holds from the next second on.
    """

    def __init__(self, sessions: Sessions, pipelines: Pipelines, leaves: Leaves, clock: Clock) -> None:
        self._sessions, self._pipelines, self._leaves, self._clock = sessions, pipelines, leaves, clock
        self._known: OrderedDict[str, tuple[int, str]] = OrderedDict()

    def kept(self, agent_uuid: str) -> Open | None:
        """Return an agent's session of today if this process looked at it within the last second; asks nobody.

        Whether it still stands is for the decision to look.
        """
        known = self._known.get(agent_uuid)
        fresh = known is not None and 0 <= self._clock.time_ns() - known[0] < _LOOK_AGAIN_NS
        return self._sessions.kept_open(known[1]) if known is not None and fresh else None

    def of(self, agent_uuid: str) -> Open:
        """Return an agent's session of today, opened or opened again if need be."""
        now_ns = self._clock.time_ns()
        if (opened := self.kept(agent_uuid)) is not None:
            return opened
        known = self._known.get(agent_uuid)
        if known is not None and 0 <= now_ns - known[0] < _LOOK_AGAIN_NS:
            session_id = known[1]
        else:
            told = f"{self._leaves.org_id}/{self._leaves.project_id}/{agent_uuid}/{rfc3339(now_ns)[:10]}"
            session_id = f"ses_{uuid.uuid5(_NAMESPACE, f'{told}/{self._pipelines.current().uuid}').hex}"
            self._known[agent_uuid] = (now_ns, session_id)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return self._sessions.open(Opening(id=session_id, name="implicit", implicit=True), agent_uuid)
