"""What the routes stand on: the database, whose keys are good, and a plane for every project."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path

from tappass.engine.audit.checkpoint import Checkpointer
from tappass.engine.audit.keys import equality_key, log_key
from tappass.engine.credentials import Credentials, Principal
from tappass.engine.engine import Engine
from tappass.engine.leaves import ORG, PROJECT
from tappass.engine.settings import Settings
from tappass.engine.store.opening import POSTGRESQL, kind_of
from tappass.engine.store.port import KEY, Store
from tappass.plane.connect import home_of
from tappass.plane.embedded import EmbeddedPlane
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock, Ids

# Answers to repeated questions are kept for a day; what is older is forgotten this often, so many at a time.
SWEEP_S, _AT_ONCE = 60.0, 1000

_AGENTS = "SELECT count(*) FROM agent WHERE org_id = ? AND active = 1"


class House:
    """One server's share of a control plane; any number of them stand on one database.

    Args:
        store: the database.
        state: the directory of the key files, `log.key` and `equality.key`; every server of a database has the same.
        url: the database's, without a password; what planes are called.

    Attributes:
        credentials: whose keys are good, over all organisations.
        home: where policy and settings lie; unless it is given, beside the state.
    """

    def __init__(
        self,
        store: Store,
        state: Path,
        *,
        url: str,
        home: Path | None = None,
        clock: Clock = SYSTEM_CLOCK,
        ids: Ids = UUID_IDS,
    ) -> None:
        self.store, self.state, self.url = store, state, url
        self.home = home or home_of(state / "tappass.db")
        self.clock, self.ids = clock, ids
        self.log_key = log_key(state)
        self.credentials = Credentials(store, clock)
        self.started_at = time.monotonic()
        self._checkpointed: set[str] = set()
        self._planes: dict[tuple[str, str], EmbeddedPlane] = {}
        self._lock = threading.Lock()

    def plane(self, org_id: str = ORG, project_id: str = PROJECT) -> EmbeddedPlane:
        """Return the plane of a project, made at its first use.

        Raises:
            TapPassConnectionError: the database cannot be reached.
            TapPassConfigError: the project has no accepted policy, and the one on disk is wrong.
        """
        with self._lock:
            plane = self._planes.get((org_id, project_id))
            if plane is None:
                plane = self._planes[org_id, project_id] = self._open(org_id, project_id)
            return plane

    def plane_of(self, principal: Principal) -> EmbeddedPlane:
        """Return the plane of a caller's project, made at its first use."""
        return self.plane(principal.org_id, principal.project_id)

    def opened(self, org_id: str, project_id: str) -> EmbeddedPlane | None:
        """Return the plane of a project if it is made already; waits for nothing."""
        return self._planes.get((org_id, project_id))

    def _open(self, org_id: str, project_id: str) -> EmbeddedPlane:
        plane = EmbeddedPlane(
            self.store,
            self.home,
            url=self.url,
            log_key=self.log_key,
            equality_key=partial(equality_key, self.state),
            keys=self.state,
            clock=self.clock,
            ids=self.ids,
            org_id=org_id,
            project_id=project_id,
            shared=True,
        )
        plane.engine.store.every(SWEEP_S, partial(_forget_old, plane.engine))
        # On SQLite a store sees the logs of all organisations, on PostgreSQL its own alone.
        seen = org_id if self.storage == POSTGRESQL else ""
        if seen not in self._checkpointed:
            self._checkpointed.add(seen)
            audit = plane.pipelines.current().settings.audit
            checkpointer = Checkpointer(plane.engine.store, self.log_key, witness=audit.witness or None)
            checkpointer.attach(audit.checkpoint_every_s)
        return plane

    @property
    def storage(self) -> str:
        """What the database is: `sqlite` or `postgresql`."""
        return kind_of(self.url)

    def count_agents(self) -> int:
        """Return how many agents are active, in all organisations."""
        counted = 0
        for org_id, *_ in self.store.read.organisations():
            row = self.store.scoped(org_id).read.row(_AGENTS, (org_id,))
            counted += int(row[0]) if row else 0
        return counted

    def settings(self) -> Settings:
        """Return the settings in force."""
        return self.plane().pipelines.current().settings

    def warnings(self) -> tuple[str, ...]:
        """Return what is not as it should be, in words that hold nothing of anybody's."""
        if self.plane().pipelines.changed():
            return ("policy or settings changed on disk and wait to be accepted",)
        return ()

    def touch(self) -> None:
        """Write nothing, in a transaction of its own: which only works where everything would.

        Raises:
            TapPassConnectionError: the database cannot be written.
        """
        self.store.run(lambda tx: tx.control(ORG))

    def start(self) -> None:
        """Begin what runs beside the requests: checkpoints of the log, hearing of keys that were revoked."""
        self.plane()
        self.store.on_change(self._heard)

    def _heard(self, _: str, topic: str) -> None:
        # Where nobody says what changed, it may have been a key.
        if topic in (KEY, ""):
            self.credentials.forget()

    def stop(self) -> None:
        """Write out what waits, sign a checkpoint, let go of the database."""
        self.store.close()


def _forget_old(engine: Engine) -> None:
    while engine.sweep(_AT_ONCE) == _AT_ONCE:
        pass
