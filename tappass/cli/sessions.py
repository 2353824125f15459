"""`tappass sessions`: what ran here, and one session as a timeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tappass.cli.console import complain, emit, say, shown
from tappass.cli.exits import NO
from tappass.cli.options import Json
from tappass.cli.place import Place, here

if TYPE_CHECKING:
    from tappass.engine.timeline import SessionLine

app = typer.Typer(invoke_without_command=True, help="Show recorded sessions: a list, or one as a timeline.")

_LIMIT = 20
_IDS = "SELECT session_id FROM session WHERE"
Limit = Annotated[int, typer.Option("-n", "--limit", min=1, max=10_000, help="How many, newest first.")]


@app.callback()
def sessions(ctx: typer.Context, limit: Limit = _LIMIT, as_json: Json = False) -> None:
    """List sessions when no command is given."""
    if ctx.invoked_subcommand is None:
        listing(limit=limit, as_json=as_json)


@app.command("list")
def listing(limit: Limit = _LIMIT, as_json: Json = False) -> None:
    """List sessions, newest first."""
    with here() as place:
        from tappass.engine.timeline import session_lines

        read = place.store.read
        lines = session_lines(read, read.sessions(limit=limit))
    if as_json:
        emit(lines)
        return
    if not lines:
        say(f"no sessions in {shown(place.database)} yet")
        return
    _show_list(lines)


def _show_list(lines: list[SessionLine]) -> None:
    from rich.text import Text

    from tappass.cli.timelines import STATUS_STYLES
    from tappass.engine.phrases import minute, summary

    widest = max(len(line.status) for line in lines)
    for line in lines:
        said = Text(f"{line.session_id}  {minute(line.opened_at)}  ")
        said.append(line.status.ljust(widest), style=STATUS_STYLES.get(line.status, ""))
        said.append(f"  {'└ ' if line.parent else ''}{shown(line.name or line.kind)}", style="bold")
        said.append(f"  {summary(line)}", style="" if line.refused or line.unsettled else "dim")
        said.append(f"  agent {shown(line.agent)}", style="dim")
        say(said)


@app.command("show")
def show(
    session: Annotated[
        str, typer.Argument(metavar="[ID|URL]", help="An id, the beginning of one, or an audit_url; else the latest.")
    ] = "",
    full: Annotated[bool, typer.Option("--full", help="Do not shorten arguments.")] = False,
    as_json: Json = False,
) -> None:
    """Show one session as a timeline: calls in order, rules, masked arguments, what is unsettled."""
    with here() as place:
        from tappass.engine.timeline import timeline

        session_id = find(place, session)
        found = timeline(place.store.read, session_id) if session_id else None
    if found is None:
        complain(f"no session {shown(session)} in {place.database}" if session else "there are no sessions yet")
        raise typer.Exit(NO)
    if as_json:
        emit(found)
        return
    from tappass.cli.timelines import tree
    from tappass.engine.phrases import totals

    say(tree(found, full=full), f"{totals(found)}  {shown(found.audit_url)}")


def find(place: Place, asked: str) -> str:
    """Return the id that was meant, "" if there is none or several."""
    wanted = asked.rstrip("/").rpartition("/")[2].partition("?")[0]
    read = place.store.read
    if not wanted:
        latest = read.query(f"{_IDS} parent = '' ORDER BY opened_at DESC, session_id DESC LIMIT 1")
        return str(latest[0][0]) if latest else ""
    rows = read.query(f"{_IDS} substr(session_id, 1, ?) = ? LIMIT 2", (len(wanted), wanted))
    return str(rows[0][0]) if len(rows) == 1 else ""
