"""`tappass demo`: the main job on real input, told as a story that the log can be held against."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
import tempfile
import time
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tappass.cli.audit import save_export
from tappass.cli.console import agreed, say, shown
from tappass.cli.demo_people import approval, changed_tool, drill
from tappass.cli.exits import NO
from tappass.cli.options import Yes
from tappass.cli.place import Place, here
from tappass.cli.telling import run_program, title
from tappass.errors import TapPassConfigError
from tappass.extras import missing

if TYPE_CHECKING:
    from tappass.engine.audit.report import Report

_WHERE = ("TAPPASS_URL", "TAPPASS_API_KEY")


def demo(
    yes: Yes = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", file_okay=False, help="Where to work: an empty or new directory.")
    ] = None,
) -> None:
    """Run a governed invoice agent on real invoices with a real local model, and check its record."""
    started = time.monotonic()
    _have_model(yes=yes)
    directory = _fresh(out)
    for name in _WHERE:
        # The demo has a plane of its own, whatever this shell is set to.
        os.environ.pop(name, None)
    with chdir(directory), here() as place:
        _prepare(place)
        _run()
        session = _timeline(place)
        approval(place, yes=yes)
        changed_tool()
        drill(place)
        export, key = _verify(place)
    took = time.monotonic() - started
    _next(directory, session, export, key, took)


def _have_model(*, yes: bool) -> None:
    """See that the local model is there; offer to install it.

    Raises:
        TapPassConfigError: it is not, and may not or cannot be installed.
    """
    from tappass.engine import local_install, local_model

    if importlib.util.find_spec("xllamacpp") is None:
        raise missing("local-llm", "the demo's local model")
    if local_model.installed_weights() is not None:
        return
    size = local_install.DOWNLOAD_MB
    if not agreed(f"The demo's model {local_model.NAME} is not installed ({size} MB). Install it?", yes=yes):
        raise TapPassConfigError("the demo needs its model; `tappass model install` installs it")
    local_install.install()


def _fresh(out: Path | None) -> Path:
    if out is None:
        return Path(tempfile.mkdtemp(prefix="tappass-demo-")).resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise TapPassConfigError(f"{out} is not empty; the demo needs a directory of its own")
    except OSError as error:
        raise TapPassConfigError(f"the demo cannot work in {out} ({error.strerror})") from error
    return out.resolve()


def _prepare(place: Place) -> None:
    from tappass.cli.init import initialise
    from tappass.cli.recipe import PROGRAM, copy_main_job

    title("A project of its own")
    copy_main_job(place.home)
    done = initialise(place)
    say(
        f"{shown(place.home)} now holds {PROGRAM}, five invoices, policy.yaml and tappass.toml,",
        f"accepted by {shown(done.accepted_by)} as {done.pipeline_uuid}.",
        "The approver key lies outside of it, because an agent that can write files may try to edit its own rules:",
        shown(done.approver_key_file),
    )


def _run() -> None:
    """Run the invoice agent."""
    from tappass.cli.recipe import PROGRAM

    title("The agent at work")
    say(
        "Every call is decided before it runs. One invoice (corvus-88213) asks for the month's papers to be mailed to",
        "an outsider, and the agent does as it is told: the rule stops it, not the model's good sense.",
        "",
    )
    run_program(PROGRAM)


def _timeline(place: Place) -> str:
    """Show the session as one would show a colleague; return its id."""
    from tappass.cli.sessions import find
    from tappass.cli.timelines import tree
    from tappass.engine.phrases import totals
    from tappass.engine.timeline import timeline

    title("The record")
    say("From the database, not from the agent's memory; arguments and results are stored masked.", "")
    session_id = find(place, "")
    found = timeline(place.store.read, session_id)
    if found is None:
        raise TapPassConfigError(f"the agent left no session in {place.database}")
    say(tree(found), totals(found))
    return session_id


def _verify(place: Place) -> tuple[Path, str]:
    """Export the log, verify the export as an outsider would, and show that a change is found."""
    title("The proof")
    folder = place.home / "audit"
    folder.mkdir()
    _, export = save_export(place, folder, content=True)
    key = str(place.public_key())
    (folder / "public.key").write_text(f"{key}\n", encoding="ascii")
    report = _read(export, key)
    for line in report.lines():
        say(shown(line))
    if not report.ok:
        raise typer.Exit(NO)
    say("", "And if somebody turned the blocked mail into an allowed one, in a copy:")
    forged = export.with_name("forged.jsonl")
    forged.write_bytes(export.read_bytes().replace(b'"outcome":"block"', b'"outcome":"allow"', 1))
    verdict = _read(forged, key)
    say(shown(verdict.lines()[0]))
    forged.unlink()
    if verdict.ok:
        raise TapPassConfigError("the forged copy was not found out, which is a bug in tappass")
    return export, key


def _read(export: Path, key: str) -> Report:
    from tappass.engine.audit.verify import verify

    return verify(export, key)


def _next(directory: Path, session: str, export: Path, key: str, took: float) -> None:
    title(f"Done in {took:.0f} s; the whole story is in {directory}")
    command, where = _command(), shlex.quote(str(directory))
    say(
        "",
        "Look at the session again, arguments in full:",
        f"  {command} -C {where} sessions show {session} --full",
        "Verify the export, as anybody can who has it and the public key:",
        f"  {command} audit verify {shlex.quote(str(export))} --key {key}",
        "Ask the policy about a call that nobody makes (the answer is no, so it exits with 1):",
        f"  {command} -C {where} policy try send_email to=eve@rival.example subject=hi body=hello",
    )


def _command() -> str:
    """Return what starts this very tappass from any shell."""
    script = shutil.which("tappass")
    if script is not None and Path(script).parent == Path(sys.executable).parent:
        return "tappass"
    beside = Path(sys.executable).parent / "tappass"
    return shlex.quote(str(beside)) if beside.exists() else f"{shlex.quote(sys.executable)} -m tappass"
