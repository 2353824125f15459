"""Which database a command is about: any, by its url, or the one of this directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from tappass.errors import TapPassConfigError

if TYPE_CHECKING:
    from tappass.engine.leaves import Leaves
    from tappass.engine.store.port import Store

Database: TypeAlias = Annotated[
    str, typer.Option("--database", help="postgresql://… or sqlite:///path; else the one of this directory.")
]
Organisation: TypeAlias = Annotated[
    str, typer.Option("--org", help="An organisation's name or id; else the local one.")
]

VARIABLE = "TAPPASS_ADMIN_KEY"


class Office:
    """One database, from the point of view of one of its organisations."""

    def __init__(self, store: Store, leaves: Leaves) -> None:
        self.store, self.leaves = store, leaves

    def who(self) -> str:
        """Return who is at the keyboard, by an admin key of this organisation, else by the approver key.

        Raises:
            TapPassConfigError: no key is shown, or it is not one of these.
        """
        from tappass.engine.approver import Approvers
        from tappass.engine.credentials import ADMIN, Credentials

        key = os.environ.get(VARIABLE, "").strip()
        if not key:
            return Approvers(self.store.scoped(self.leaves.org_id), self.leaves).present().name
        found = Credentials(self.store).principal(key)
        if found is None or not found.may(ADMIN) or found.org_id not in (self.leaves.org_id, "org_local"):
            raise TapPassConfigError(f"the key in {VARIABLE} is no admin key here")
        return found.name or found.key_id


@contextmanager
def office(database: str, organisation: str = "") -> Iterator[Office]:
    """Yield a database and one of its organisations.

    Raises:
        TapPassConfigError: there is no such database, or no such organisation in it.
    """
    from tappass.engine.leaves import Leaves
    from tappass.engine.organisations import Organisations
    from tappass.engine.store.opening import open_store
    from tappass.plane.connect import database_of, url_here
    from tappass.wire.ids import SYSTEM_CLOCK

    url = database or url_here()
    if not url.startswith("postgres"):
        path = database_of(url)
        if not path.exists():
            raise TapPassConfigError(f"there is no database at {path}; `tappass init` or `tappass serve` makes one")
        url = f"sqlite:///{path}"
    store = open_store(url)
    try:
        organisations = Organisations(store)
        organisations.settle_in()
        place = organisations.find(organisation)
        yield Office(store, Leaves(SYSTEM_CLOCK, place.org_id, place.project_id))
    finally:
        store.close()
