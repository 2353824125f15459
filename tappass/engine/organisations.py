"""Organisations and their projects: whose log it is, and within it whose policy."""

from __future__ import annotations

import msgspec

from tappass.engine.leaves import ORG, PROJECT
from tappass.engine.store.port import Store, Tx
from tappass.engine.words import worded
from tappass.errors import TapPassConfigError
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock, Ids, rfc3339

_ALL = (
    "SELECT organisation.org_id, organisation.name, project_id, project.name, organisation.created_at"
    " FROM organisation JOIN project ON project.org_id = organisation.org_id"
    " ORDER BY organisation.created_at, organisation.org_id, project.created_at, project_id"
)
_NAMED = "SELECT 1 FROM organisation WHERE name = ?"
_NEW_ORG = "INSERT INTO organisation (org_id, name, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_NEW_PROJECT = "INSERT INTO project (project_id, org_id, name, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A project of an organisation."""

    org_id: str
    name: str
    project_id: str
    project: str
    created_at: str


class Organisations:
    """Every organisation of one database."""

    def __init__(self, store: Store, clock: Clock = SYSTEM_CLOCK, ids: Ids = UUID_IDS) -> None:
        self._store, self._clock, self._ids = store, clock, ids

    def all(self) -> list[Place]:
        """Return every project of every organisation, oldest first."""
        rows = self._store.read.query(_ALL)
        return [Place(**dict(zip(Place.__struct_fields__, row, strict=True))) for row in rows]

    def settle_in(self) -> None:
        """Write the rows of the organisation and project that embedded planes are of, where they are not there."""
        at = rfc3339(self._clock.time_ns())

        def write(tx: Tx) -> None:
            tx.execute(_NEW_ORG, (ORG, "local", at))
            tx.execute(_NEW_PROJECT, (PROJECT, ORG, "local", at))

        if not any(place.project_id == PROJECT for place in self.all()):
            self._store.run(write)

    def add(self, name: str) -> Place:
        """Make an organisation with one project, `default`.

        Raises:
            TapPassConfigError: the name is not usable, or taken.
        """
        name, at = worded(name, "an organisation's name", longest=200), rfc3339(self._clock.time_ns())
        org_id, project_id = self._ids.new("org"), self._ids.new("prj")

        def write(tx: Tx) -> None:
            if tx.execute(_NAMED, (name,)).fetchone() is not None:
                raise TapPassConfigError(f"there is an organisation `{name}` already; `tappass orgs list` shows all")
            tx.execute(_NEW_ORG, (org_id, name, at))
            tx.execute(_NEW_PROJECT, (project_id, org_id, "default", at))

        self._store.run(write)
        return Place(org_id=org_id, name=name, project_id=project_id, project="default", created_at=at)
