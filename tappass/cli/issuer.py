"""`tappass issuer`: the keys that correlation tokens are signed with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tappass.cli import people
from tappass.cli.console import emit, say, shown
from tappass.cli.options import Json
from tappass.cli.people import minute, table
from tappass.cli.place import Place, here

if TYPE_CHECKING:
    from tappass.engine.signing_keys import SigningKeys

app = typer.Typer(invoke_without_command=True, help="The keys that sign correlation tokens: list, rotate, retire.")


@app.callback()
def issuer(ctx: typer.Context, as_json: Json = False) -> None:
    """List the keys when no command is given."""
    if ctx.invoked_subcommand is None:
        keys(as_json=as_json)


@app.command("keys")
def keys(as_json: Json = False) -> None:
    """List the public keys, and until when those that sign no more are still good."""
    with here() as place:
        found = signing_keys(place).all()
    if as_json:
        emit(found)
        return
    rows = [(key.key_id, minute(key.created_at), minute(key.retired_at) or "signs") for key in found]
    table(("key", "made", "good until"), rows, empty="no key yet; the first token makes one")


@app.command("rotate")
def rotate(as_json: Json = False) -> None:
    """Sign with a new key; the old one stays good until its last token has expired. Needs the approver key."""
    with here() as place:
        by = people.approver(place).name
        key_id = signing_keys(place).rotate(by)
        for head in place.store.read.heads():
            signing_keys(place, head.org_id).current(by)
    if as_json:
        emit({"key_id": key_id})
        return
    say(key_id, "signs from now on; the key before stays good until its last token has expired")


@app.command("retire")
def retire(key_id: Annotated[str, typer.Argument(help="As `tappass issuer keys` shows it.")]) -> None:
    """Refuse a stolen or lost key's tokens at once, those already issued too. Needs the approver key."""
    with here() as place:
        signing_keys(place).retire(key_id, people.approver(place).name)
    say(f"{shown(key_id)} is good for nothing from now on; `tappass issuer rotate` makes another where it signed")


def signing_keys(place: Place, org_id: str = "") -> SigningKeys:
    """Return the keys of an organisation at a place."""
    from tappass.engine.leaves import ORG, Leaves
    from tappass.engine.signing_keys import SigningKeys
    from tappass.wire.ids import SYSTEM_CLOCK

    return SigningKeys(place.store, Leaves(SYSTEM_CLOCK, org_id or ORG), place.database.parent)
