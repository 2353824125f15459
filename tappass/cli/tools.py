"""`tappass tools`: the tools that were called here, how their definitions changed, and which may run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from tappass.cli.console import emit, say, shown
from tappass.cli.options import Json
from tappass.cli.people import Reason, approver, leaves, minute, table
from tappass.cli.place import Place, here

if TYPE_CHECKING:
    from tappass.engine.pins import Pin, Pins

app = typer.Typer(invoke_without_command=True, help="Tool definitions: list, compare, approve, revoke.")

Tool = Annotated[str, typer.Argument(help="The tool's name, or SERVER/NAME.")]
Digest = Annotated[str, typer.Option("--digest", help="The beginning of a definition's digest; else the latest one.")]
_SHORT = 12


def _pins(place: Place) -> Pins:
    from tappass.engine.pins import Pins

    return Pins(place.store, leaves())


@app.callback()
def tools(ctx: typer.Context, as_json: Json = False) -> None:
    """List tools when no command is given."""
    if ctx.invoked_subcommand is None:
        listing(as_json=as_json)


@app.command("list")
def listing(as_json: Json = False) -> None:
    """List every definition of every tool that was called here, and what people think of it."""
    with here() as place:
        found = _pins(place).all()
    if as_json:
        emit(found)
        return
    rows = [
        (_title(pin), pin.digest[:_SHORT], pin.state, pin.decided_by, minute(pin.first_seen_at), pin.reason)
        for pin in found
    ]
    table(("tool", "digest", "state", "by", "first seen", "reason"), rows, empty="no tool has been called here yet")


@app.command("diff")
def diff(tool: Tool, digest: Digest = "", as_json: Json = False) -> None:
    """Show how a definition differs from the approved one, or else from the one before it."""
    with here() as place:
        from tappass.cli.changes import differing, lines
        from tappass.engine.pins import before

        pins = _pins(place)
        new = pins.one(tool, digest)
        old = before(pins.of(tool), new)
    if as_json:
        emit({"old": old, "new": new})
        return
    if old is None:
        say(f"{_title(new)} {new.digest[:_SHORT]} ({new.state}) is the only definition")
    else:
        say(f"{_title(new)}: {old.digest[:_SHORT]} ({old.state}) → {new.digest[:_SHORT]} ({new.state})")
    for line in lines(list(differing({} if old is None else _said(old), _said(new)))):
        say(line)


@app.command("approve")
def approve(tool: Tool, reason: Reason, digest: Digest = "", as_json: Json = False) -> None:
    """Let a tool run as its latest definition, or the one named, says. Needs the approver key."""
    with here() as place:
        pins = _pins(place)
        _say(pins.approve(approver(place), pins.one(tool, digest), reason), as_json=as_json)


@app.command("revoke")
def revoke(tool: Tool, reason: Reason, digest: Digest = "", as_json: Json = False) -> None:
    """Never let a tool run as its latest definition, or the one named, says. Needs the approver key."""
    with here() as place:
        pins = _pins(place)
        _say(pins.revoke(approver(place), pins.one(tool, digest), reason), as_json=as_json)


def _say(pin: Pin, *, as_json: bool) -> None:
    if as_json:
        emit(pin)
        return
    say(f"{_title(pin)} {pin.digest[:_SHORT]} is {pin.state}, for every call from now on")


def _title(pin: Pin) -> str:
    return shown(f"{pin.server}/{pin.name}" if pin.server else pin.name, limit=100)


def _said(pin: Pin) -> dict[str, Any]:
    """Return a definition part by part, each parameter a part of its own."""
    parts: dict[str, Any] = msgspec.to_builtins(pin.definition)
    schema = parts.pop("parameters", {})
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    parts |= {f"parameter {name}": each for name, each in properties.items()} if isinstance(properties, dict) else {}
    if isinstance(schema, dict):
        parts |= {f"parameters.{key}": each for key, each in schema.items() if key != "properties"}
    return parts
