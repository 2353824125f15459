"""Organisations and their projects: whose log it is, and within it whose policy."""

from __future__ import annotations

import msgspec

from tappass.engine.leaves import ORG, PROJECT
from tappass.engine.store.port import Store, Tx
from tappass.engine.words import worded
from tappass.errors import TapPassConfigError
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock, Ids, rfc3339

_PROJECTS = "SELECT project_id, name FROM project WHERE org_id = ? ORDER BY created_at, project_id"
_NEW_ORG = "INSERT INTO organisation (org_id, name, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_NEW_PROJECT = "INSERT INTO project (project_id, org_id, name, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
LOCAL = "local"


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
        return [
            Place(org_id=org_id, name=name, project_id=project_id, project=project, created_at=at)
            for org_id, name, at in self._store.read.organisations()
            for project_id, project in self._store.scoped(org_id).read.query(_PROJECTS, (org_id,))
        ]

    def find(self, name: str) -> Place:
        """Return the first project of an organisation, by its id or its name; "" is the local one.

        Raises:
            TapPassConfigError: there is none.
        """
        wanted = name or ORG
        for place in self.all():
            if wanted in (place.org_id, place.name):
                return place
        raise TapPassConfigError(f"there is no organisation `{name}`; `tappass orgs list` shows all")

    def settle_in(self) -> None:
        """Write the rows of the organisation and project that embedded planes are of, where they are not there."""
        if all(place.project_id != PROJECT for place in self.all()):
            self._write(Place(org_id=ORG, name=LOCAL, project_id=PROJECT, project=LOCAL, created_at=self._now()))

    def add(self, name: str) -> Place:
        """Make an organisation with one project, `default`.

        Raises:
            TapPassConfigError: the name is not usable, or taken.
        """
        name = worded(name, "an organisation's name", longest=200)
        if not name.isprintable():
            raise TapPassConfigError("an organisation's name is printable text")
        if any(name in (known, org_id) for org_id, known, _ in self._store.read.organisations()):
            raise TapPassConfigError(f"there is an organisation `{name}` already; `tappass orgs list` shows all")
        org_id, project_id = self._ids.new("org"), self._ids.new("prj")
        return self._write(
            Place(org_id=org_id, name=name, project_id=project_id, project="default", created_at=self._now())
        )

    def _write(self, place: Place) -> Place:
        def write(tx: Tx) -> None:
            tx.execute(_NEW_ORG, (place.org_id, place.name, place.created_at))
            tx.execute(_NEW_PROJECT, (place.project_id, place.org_id, place.project, place.created_at))

        self._store.scoped(place.org_id).run(write)
        return place

    def _now(self) -> str:
        return rfc3339(self._clock.time_ns())
