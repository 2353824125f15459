"""The root of the command line: the groups, the options that every command has, and the net under all of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tappass.cli import (
    agents,
    approvals,
    approvers,
    audit,
    backup,
    breakglass,
    budgets,
    demo,
    doctor,
    init,
    issuer,
    keys,
    model,
    orgs,
    policy,
    serve,
    sessions,
    tools,
)
from tappass.cli.exits import INTERRUPTED, report


class Root(TyperGroup):
    """Turns every error into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        for stream in (sys.stdout, sys.stderr):
            # A name that the terminal's encoding does not have is no reason to fail.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, typer.Abort) as error:
            sys.stderr.write("\n")
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError:
            raise
        except Exception as error:
            if type(error).__module__.partition(".")[0] in ("click", "typer"):
                raise
            raise typer.Exit(report(error)) from error


app = typer.Typer(
    cls=Root,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Runtime governance for AI agents: decide before, approve the risky few, prove it afterwards.",
    epilog="Exit codes: 0 yes; 1 the answer is no; 2 usage or settings; 3 control plane unavailable; 130 interrupted.",
)


def _show_version(value: bool) -> None:
    if value:
        from tappass import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    directory: Annotated[
        Path | None,
        typer.Option(
            "--directory", "-C", exists=True, file_okay=False, help="Run as if started there; before the command."
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before the command."""
    if directory is not None:
        os.chdir(directory)


app.command("init")(init.init)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("serve")(serve.serve)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("upgrade")(backup.upgrade)
app.command("budgets")(budgets.budgets)
app.add_typer(policy.app, name="policy")
app.add_typer(sessions.app, name="sessions")
app.add_typer(approvals.app, name="approvals")
app.add_typer(agents.app, name="agents")
app.add_typer(tools.app, name="tools")
app.add_typer(breakglass.app, name="break-glass")
app.add_typer(approvers.app, name="approvers")
app.add_typer(keys.app, name="keys")
app.add_typer(orgs.app, name="orgs")
app.add_typer(issuer.app, name="issuer")
app.add_typer(audit.app, name="audit")
app.add_typer(model.app, name="model")
