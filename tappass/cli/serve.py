"""`tappass serve`: the control plane as a service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tappass.cli.console import say
from tappass.extras import missing

if TYPE_CHECKING:
    from tappass.engine.keys import MadeKey


def serve(
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 takes a free one.")] = 9620,
    database: Annotated[
        str, typer.Option("--database", help="sqlite:///path or postgresql://…; else the one of this directory.")
    ] = "",
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="How many processes serve.")] = 1,
    state: Annotated[
        Path | None, typer.Option("--state", help="Where log.key and equality.key lie; else beside the database.")
    ] = None,
) -> None:
    """Serve this directory's control plane over HTTP. The first start prints an admin key, once."""
    try:
        from tappass.server.serve import Serving, run
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "tappass":
            raise
        raise missing("server", "`tappass serve`") from error
    from tappass.plane.connect import database_of, url_here
    from tappass.plane.followed import FOLDER

    database = database or url_here()
    if database.startswith(("sqlite:", "embedded")):
        path = database_of(database)
        database, state = f"sqlite:///{path}", state or path.parent
    serving = Serving(
        database=database, state=(state or Path.cwd() / FOLDER).absolute(), host=host, port=port, workers=workers
    )
    run(serving, _announce)


def _announce(address: str, made: MadeKey | None) -> None:
    say(f"serving   {address}")
    if made is not None:
        say(f"admin key {made.key}", "          It is shown only now: keep it. It opens the pages at that address.")
