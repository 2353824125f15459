"""`tappass issuer`: the keys that correlation tokens are signed with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from tappass.cli.console import emit, say, shown
from tappass.cli.databases import Database, Office, Organisation, office
from tappass.cli.options import Json
from tappass.cli.people import minute, table
from tappass.extras import missing

if TYPE_CHECKING:
    from tappass.engine.signing_keys import SigningKeys

app = typer.Typer(invoke_without_command=True, help="The keys that sign correlation tokens: list, rotate, retire.")

State: TypeAlias = Annotated[
    Path | None, typer.Option("--state", help="Where issuer.key lies; else beside the database, or in .tappass here.")
]


@app.callback()
def issuer(ctx: typer.Context, database: Database = "", organisation: Organisation = "", as_json: Json = False) -> None:
    """List the keys when no command is given."""
    if ctx.invoked_subcommand is None:
        keys(database=database, organisation=organisation, as_json=as_json)


@app.command("keys")
def keys(database: Database = "", organisation: Organisation = "", as_json: Json = False) -> None:
    """List the public keys, and until when those that sign no more are still good."""
    with office(database, organisation) as place:
        found = _keys(place, None).all()
    if as_json:
        emit(found)
        return
    rows = [(key.key_id, minute(key.created_at), minute(key.retired_at) or "signs") for key in found]
    table(("key", "made", "good until"), rows, empty="no key yet; the first token makes one")


@app.command("rotate")
def rotate(
    database: Database = "", organisation: Organisation = "", state: State = None, as_json: Json = False
) -> None:
    """Sign with a new key; the old one stays good until its last token has expired. Needs an admin or approver key."""
    with office(database, organisation) as place:
        key_id = _keys(place, state or _state(database)).rotate(place.who())
    if as_json:
        emit({"key_id": key_id})
        return
    say(key_id, "signs from now on; the key before stays good until its last token has expired")


@app.command("retire")
def retire(
    key_id: Annotated[str, typer.Argument(help="As `tappass issuer keys` shows it.")],
    database: Database = "",
    organisation: Organisation = "",
) -> None:
    """Refuse a stolen or lost key's tokens at once, those already issued too. Needs an admin or approver key."""
    with office(database, organisation) as place:
        _keys(place, None).retire(key_id, place.who())
    say(f"{shown(key_id)} is good for nothing from now on; `tappass issuer rotate` makes another where it signed")


def _keys(place: Office, state: Path | None) -> SigningKeys:
    try:
        from tappass.engine.signing_keys import SigningKeys
    except ImportError as error:
        raise missing("embedded", "this command") from error
    return SigningKeys(place.store.scoped(place.leaves.org_id), place.leaves, state)


def _state(database: str) -> Path:
    """Return the directory of a database's key files."""
    from tappass.plane.connect import database_of, url_here
    from tappass.plane.followed import FOLDER

    url = database or url_here()
    return Path.cwd() / FOLDER if url.startswith("postgres") else database_of(url).parent
