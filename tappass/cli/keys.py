"""`tappass keys`: what opens a server, for whom and until when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tappass.cli.console import emit, say
from tappass.cli.databases import Database, Office, Organisation, office
from tappass.cli.options import Json
from tappass.cli.people import minute, table

if TYPE_CHECKING:
    from tappass.engine.keys import Keys, MadeKey

app = typer.Typer(invoke_without_command=True, help="Keys of agents and people: list, create, rotate, revoke.")

KeyId = Annotated[str, typer.Argument(help="The key's id, as `tappass keys list` shows it.")]
Expires = Annotated[str, typer.Option("--expires-in", help="How long it is good, as 12h or 90d; else for ever.")]


def _keys(place: Office) -> Keys:
    from tappass.engine.keys import Keys

    return Keys(place.store, place.leaves)


def _seconds(duration: str) -> int:
    from tappass.engine.breakglass import seconds_of

    return seconds_of(duration) if duration else 0


@app.callback()
def keys(ctx: typer.Context, database: Database = "", organisation: Organisation = "", as_json: Json = False) -> None:
    """List keys when no command is given."""
    if ctx.invoked_subcommand is None:
        listing(database=database, organisation=organisation, as_json=as_json)


@app.command("list")
def listing(database: Database = "", organisation: Organisation = "", as_json: Json = False) -> None:
    """List keys, without the keys."""
    with office(database, organisation) as place:
        found = _keys(place).all()
    if as_json:
        emit(found)
        return
    rows = [
        (k.key_id, k.scope, k.name or k.label, k.created_by, minute(k.created_at), minute(k.expires_at) or "-",
         minute(k.revoked_at) or "-")
        for k in found
    ]  # fmt: skip
    table(("key", "scope", "whose", "made by", "at", "expires", "revoked"), rows, empty="no keys yet")


@app.command("create")
def create(
    scope: Annotated[str, typer.Option("--scope", help="agent, admin, approver or auditor.")],
    name: Annotated[str, typer.Option("--for", help="Whose: an agent's name, or a person's.")] = "",
    expires: Expires = "",
    label: Annotated[str, typer.Option("--label", help="What it is for.")] = "",
    database: Database = "",
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """Make a key and print it once. Needs an admin key in TAPPASS_ADMIN_KEY, or the approver key."""
    with office(database, organisation) as place:
        seconds = _seconds(expires)
        made = _keys(place).create(place.who(), scope, name=name, label=label, expires_in_s=seconds)
    _show(made, as_json)


@app.command("rotate")
def rotate(
    key_id: KeyId,
    overlap: Annotated[str, typer.Option("--overlap", help="How long the old one stays good, as 1h; else not.")] = "",
    expires: Expires = "",
    database: Database = "",
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """Make a key in another one's place and print it once. Needs an admin key, or the approver key."""
    with office(database, organisation) as place:
        wanted = {"overlap_s": _seconds(overlap), "expires_in_s": _seconds(expires)}
        made = _keys(place).rotate(place.who(), key_id, **wanted)
    _show(made, as_json)


@app.command("revoke")
def revoke(key_id: KeyId, database: Database = "", organisation: Organisation = "", as_json: Json = False) -> None:
    """End a key; every server refuses it within a second. Needs an admin key, or the approver key."""
    with office(database, organisation) as place:
        _keys(place).revoke(place.who(), key_id)
    if as_json:
        emit({"key_id": key_id, "revoked": True})
        return
    say(f"{key_id} is revoked")


def _show(made: MadeKey, as_json: bool) -> None:
    if as_json:
        emit({"key_id": made.key_id, "scope": made.scope, "key": made.key})
        return
    say(made.key, "This is the key; it is shown only now.")
