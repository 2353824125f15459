"""`tappass break-glass`: an emergency override, by two people, for a while, reviewed afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tappass.cli.console import emit, say, shown
from tappass.cli.options import Json
from tappass.cli.people import Reason, approver, leaves, minute, table
from tappass.cli.place import Place, here

if TYPE_CHECKING:
    from tappass.engine.breakglass import BreakGlasses, BreakGlassRow

app = typer.Typer(invoke_without_command=True, help="Emergency overrides: activate, confirm, end, review, list.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The id, or the beginning of one.")]


def _glasses(place: Place) -> BreakGlasses:
    from tappass.engine.breakglass import BreakGlasses

    return BreakGlasses(place.store, leaves())


@app.callback()
def glasses(ctx: typer.Context, as_json: Json = False) -> None:
    """List overrides when no command is given."""
    if ctx.invoked_subcommand is None:
        listing(as_json=as_json)


@app.command("activate")
def activate(
    level: Annotated[str, typer.Option("--level", help="relax, bypass_step or full_bypass.")],
    scope: Annotated[str, typer.Option("--scope", help="`pay*`, `agent:NAME`, or both; `*` is everything.")],
    reason: Reason,
    duration: Annotated[str, typer.Option("--for", help="How long, once confirmed: 30m, 1h30m; at most 24h.")] = "30m",
    as_json: Json = False,
) -> None:
    """Ask for an override; it is in force once somebody else confirms it. Needs the approver key."""
    with here() as place:
        from tappass.engine.breakglass import seconds_of

        asked = _glasses(place).activate(approver(place), level, scope, reason, seconds_of(duration))
    if as_json:
        emit(asked)
        return
    say(
        f"{asked.break_glass_id} is asked for: {asked.level} for {shown(asked.scope)}",
        f"Somebody else confirms it within an hour: tappass break-glass confirm {asked.break_glass_id}",
    )


@app.command("confirm")
def confirm(glass: Id, as_json: Json = False) -> None:
    """Put an override in force, as a second person. Needs the approver key."""
    with here() as place:
        glasses = _glasses(place)
        done = glasses.confirm(approver(place), glasses.expand(glass))
    _say(done, f"in force until {done.expires_at}", as_json=as_json)


@app.command("end")
def end(
    glass: Id,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; kept beside the log.")] = "",
    as_json: Json = False,
) -> None:
    """End an override early, or take a request back. Needs the approver key."""
    with here() as place:
        glasses = _glasses(place)
        done = glasses.end(approver(place), glasses.expand(glass), reason)
    _say(done, "ended", as_json=as_json)


@app.command("review")
def review(
    glass: Id,
    text: Annotated[str, typer.Option("--text", "-t", help="What happened under it; kept beside the log.")],
    as_json: Json = False,
) -> None:
    """Say what came of an override that is over. Needs the approver key."""
    with here() as place:
        glasses = _glasses(place)
        done = glasses.review(approver(place), glasses.expand(glass), text)
    _say(done, "reviewed", as_json=as_json)


@app.command("list")
def listing(
    unreviewed: Annotated[bool, typer.Option("--unreviewed", help="Only those that wait for a review.")] = False,
    as_json: Json = False,
) -> None:
    """List overrides, oldest first, with those that wait for a review."""
    with here() as place:
        found = [row for row in _glasses(place).all() if row.unreviewed or not unreviewed]
    if as_json:
        emit(found)
        return
    rows = [
        (
            row.break_glass_id,
            _state(row),
            row.level,
            row.scope,
            row.activated_by,
            row.confirmed_by,
            _until(row),
            row.reason,
        )
        for row in found
    ]
    columns = ("id", "state", "level", "scope", "asked by", "confirmed by", "until", "reason")
    table(columns, rows, empty="no break-glass yet")


def _state(row: BreakGlassRow) -> str:
    return f"{row.state}, waits for a review" if row.unreviewed else row.state


def _until(row: BreakGlassRow) -> str:
    return minute(row.ended_at or row.expires_at)


def _say(row: BreakGlassRow, what: str, *, as_json: bool) -> None:
    if as_json:
        emit(row)
        return
    say(f"{row.break_glass_id} ({row.level} for {shown(row.scope)}) is {what}")
