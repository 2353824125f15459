"""`tappass approvers`: the people who may decide here."""

from __future__ import annotations

from typing import Annotated

import typer

from tappass.cli import people
from tappass.cli.console import emit, say, shown
from tappass.cli.options import Json
from tappass.cli.people import minute, table
from tappass.cli.place import here

app = typer.Typer(invoke_without_command=True, help="The people who may decide: list, add, revoke.")

Name = Annotated[str, typer.Argument(help="What the log calls that person.")]


@app.callback()
def approvers(ctx: typer.Context, as_json: Json = False) -> None:
    """List approvers' keys when no command is given."""
    if ctx.invoked_subcommand is None:
        listing(as_json=as_json)


@app.command("list")
def listing(as_json: Json = False) -> None:
    """List approvers' keys, without the keys."""
    with here() as place:
        found = people.approvers(place).all()
    if as_json:
        emit(found)
        return
    rows = [(k.name, k.key_id, k.created_by, minute(k.created_at), minute(k.revoked_at) or "valid") for k in found]
    table(
        ("approver", "key", "made by", "at", "revoked"), rows, empty="no approvers yet; `tappass init` makes the first"
    )


@app.command("add")
def add(name: Name, as_json: Json = False) -> None:
    """Make a key for another person and print it once. Needs the approver key."""
    with here() as place:
        key = people.approvers(place).add(people.approver(place), name)
    if as_json:
        emit({"name": name, "key": key})
        return
    say(key, f"This is {shown(name)}'s key; it is shown only now. They put it into TAPPASS_APPROVER_KEY.")


@app.command("revoke")
def revoke(name: Name, as_json: Json = False) -> None:
    """Revoke a person's keys. Needs the approver key."""
    with here() as place:
        count = people.approvers(place).revoke(people.approver(place), name)
    if as_json:
        emit({"name": name, "revoked": count})
        return
    say(f"{shown(name)} is no approver any more")
