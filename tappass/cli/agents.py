"""`tappass agents`: who acts here, how far each is trusted, and their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tappass.cli.console import emit, say, shown
from tappass.cli.options import Json
from tappass.cli.people import Reason, approver, leaves, minute, table
from tappass.cli.place import Place, here

if TYPE_CHECKING:
    from tappass.engine.trust import Agents

app = typer.Typer(invoke_without_command=True, help="Agents: list, register, trust, keys.")

Name = Annotated[str, typer.Argument(help="The agent's name.")]


def _agents(place: Place) -> Agents:
    from tappass.engine.trust import Agents

    return Agents(place.store, leaves())


@app.callback()
def agents(ctx: typer.Context, as_json: Json = False) -> None:
    """List agents when no command is given."""
    if ctx.invoked_subcommand is None:
        listing(as_json=as_json)


@app.command("list")
def listing(as_json: Json = False) -> None:
    """List agents with their trust tiers."""
    with here() as place:
        found = _agents(place).all()
    if as_json:
        emit(found)
        return
    rows = [(a.name, a.tier, a.framework, a.registered_by or "named by code", minute(a.registered_at)) for a in found]
    table(("agent", "tier", "framework", "registered by", "at"), rows, empty="no agents yet")


@app.command("add")
def add(
    name: Name,
    framework: Annotated[str, typer.Option("--framework", help="What it is built with.")] = "",
    description: Annotated[str, typer.Option("--description", help="What it is for.")] = "",
    as_json: Json = False,
) -> None:
    """Register an agent; its trust tier is standard. Needs the approver key."""
    with here() as place:
        made = _agents(place).add(approver(place), name, framework=framework, description=description)
    if as_json:
        emit(made)
        return
    say(f"{shown(made.name)} is registered by {shown(made.registered_by)}; its tier is {made.tier}")


@app.command("set-tier")
def set_tier(
    name: Name,
    tier: Annotated[str, typer.Argument(help="untrusted, limited, standard, trusted or privileged.")],
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Change how far an agent is trusted, in open sessions too. Needs the approver key."""
    with here() as place:
        changed = _agents(place).set_tier(approver(place), name, tier, reason)
    if as_json:
        emit(changed)
        return
    say(f"{shown(name)} has the tier {changed.tier}, for every call from now on")


@app.command("history")
def history(name: Name, as_json: Json = False) -> None:
    """Show who registered an agent and who changed its tier, when and why."""
    with here() as place:
        found = _agents(place).history(name)
    if as_json:
        emit(found)
        return
    rows = [(minute(c.at), c.actor, f"{c.old or 'registered'} → {c.new}", c.reason) for c in found]
    table(("at", "by", "tier", "reason"), rows, empty=f"nobody has registered or changed {shown(name)}")


@app.command("keys")
def keys(
    name: Name,
    create: Annotated[bool, typer.Option("--create", help="Make a key; it is shown once.")] = False,
    label: Annotated[str, typer.Option("--label", help="What the new key is for.")] = "",
    revoke: Annotated[str, typer.Option("--revoke", metavar="KEY_ID", help="Revoke that key.")] = "",
    as_json: Json = False,
) -> None:
    """List an agent's keys, make one, or revoke one; the latter two need the approver key."""
    with here() as place:
        agents, made = _agents(place), None
        if revoke:
            agents.revoke_key(approver(place), name, revoke)
        if create:
            made = agents.new_key(approver(place), name, label)
        found = agents.keys(name)
    if as_json:
        emit({"keys": found, "created": None if made is None else {"key_id": made[0], "key": made[1]}})
        return
    if made is not None:
        say(f"{made[1]}", "This is the key; it is shown only now.")
        return
    rows = [(k.key_id, k.label, k.created_by, minute(k.created_at), minute(k.revoked_at) or "valid") for k in found]
    table(("key", "label", "made by", "at", "revoked"), rows, empty=f"{shown(name)} has no keys")
