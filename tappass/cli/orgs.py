"""`tappass orgs`: the organisations that share a server, each with a log, keys and people of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from tappass.cli.console import emit, say, shown
from tappass.cli.databases import Database, office
from tappass.cli.options import Json
from tappass.cli.people import minute, table

app = typer.Typer(invoke_without_command=True, help="Organisations of one database: list, add.")


@app.callback()
def orgs(ctx: typer.Context, database: Database = "", as_json: Json = False) -> None:
    """List organisations when no command is given."""
    if ctx.invoked_subcommand is None:
        listing(database=database, as_json=as_json)


@app.command("list")
def listing(database: Database = "", as_json: Json = False) -> None:
    """List organisations and their projects."""
    from tappass.engine.organisations import Organisations

    with office(database) as place:
        found = Organisations(place.store).all()
    if as_json:
        emit(found)
        return
    rows = [(each.name, each.org_id, each.project, each.project_id, minute(each.created_at)) for each in found]
    table(("organisation", "id", "project", "id", "since"), rows, empty="no organisations yet")


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What it is called.")], database: Database = "", as_json: Json = False
) -> None:
    """Make an organisation and its first admin key, printed once. Needs an admin key, or the approver key."""
    from tappass.engine.keys import Keys
    from tappass.engine.leaves import Leaves
    from tappass.engine.organisations import Organisations
    from tappass.wire.ids import SYSTEM_CLOCK

    with office(database) as place:
        who = place.who()
        made = Organisations(place.store).add(name)
        key = Keys(place.store, Leaves(SYSTEM_CLOCK, made.org_id, made.project_id)).first(who)
    assert key is not None
    if as_json:
        emit({"org_id": made.org_id, "name": made.name, "project_id": made.project_id, "key": key.key})
        return
    say(key.key, f"This is {shown(made.name)}'s first admin key; it is shown only now.")
