"""`tappass serve`: the control plane as a service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tappass.cli.console import complain, say, shown
from tappass.cli.exits import NO
from tappass.extras import missing

if TYPE_CHECKING:
    from tappass.server.serve import Announcement, Serving


def serve(
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 takes a free one.")] = 9620,
    database: Annotated[
        str,
        typer.Option(
            "--database",
            envvar="TAPPASS_DATABASE",
            show_envvar=True,
            help="sqlite:///path or postgresql://…; else the one of this directory.",
        ),
    ] = "",
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="How many processes serve.")] = 1,
    state: Annotated[
        Path | None, typer.Option("--state", help="Where the key files lie; else beside the database, or .tappass/.")
    ] = None,
    rekey: Annotated[
        bool, typer.Option("--rekey", help="On PostgreSQL: these key files count, where the servers' own are lost.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Look at everything, serve nothing; exit 1 if wrong.")] = False,
) -> None:
    """Serve this directory's control plane over HTTP. The first start prints an admin key, once."""
    try:
        from tappass.server.serve import Serving, run
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "tappass":
            raise
        raise missing("server", "`tappass serve`") from error
    database, state = _place(database, state)
    serving = Serving(database=database, state=state, host=host, port=port, workers=workers, rekey=rekey)
    if check:
        _check(serving)
    else:
        run(serving, _announce)


def _place(database: str, state: Path | None) -> tuple[str, Path]:
    """Return the database that is served and the directory of its key files."""
    from tappass.engine.store.opening import kind_of
    from tappass.plane.connect import database_of, url_here
    from tappass.plane.followed import FOLDER

    database = database or url_here()
    if database.startswith("embedded") or kind_of(database) == "sqlite":
        path = database_of(database)
        database, state = f"sqlite:///{path}", state or path.parent
    return database, (state or Path.cwd() / FOLDER).absolute()


def _announce(told: Announcement) -> None:
    say(f"serving   {told.address}")
    if told.key is not None:
        # To the terminal alone: the log never sees it.
        say(f"admin key {told.key.key}", "          It is shown only now: keep it. It opens the pages at that address.")
    for note in told.notes:
        complain(note)


def _check(serving: Serving) -> None:
    from tappass.server.checking import check

    found = check(serving)
    for looked in found:
        say(f"{'ok     ' if looked.ok else 'problem'}  {looked.what:<9} {shown(looked.found)}")
    if not all(looked.ok for looked in found):
        raise typer.Exit(NO)
