"""`tappass audit`: verify, export, follow the log, and the key that signs it."""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from tappass.cli.console import emit, progress, say, shown
from tappass.cli.exits import NO
from tappass.cli.options import Json
from tappass.cli.place import Place, here
from tappass.errors import TapPassConfigError

if TYPE_CHECKING:
    from tappass.engine.audit.export import Header
    from tappass.engine.audit.report import Report
    from tappass.wire.events import AuditEvent

app = typer.Typer(no_args_is_help=True, help="The append-only log: verify it, export it, follow it.")

_POLL_S = 0.3
_PAGE = 500


@app.command("verify")
def verify(
    export: Annotated[
        Path | None, typer.Argument(dir_okay=False, help="An export; without one the log here is exported and read.")
    ] = None,
    key: Annotated[str, typer.Option("--key", help="The public key, or a file that holds it, from elsewhere.")] = "",
    checkpoints: Annotated[
        list[Path] | None, typer.Option("--checkpoint", help="Checkpoints held elsewhere; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify a log: nothing edited, missing, moved; exits with 1 and names the first bad event otherwise."""
    if export is not None:
        public = _given(key) or _known(export)
        report = _checked(export, public, checkpoints or [])
    else:
        with here() as place, tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "log.jsonl"
            with copy.open("wb") as out:
                write_export(place, out, content=True)
            report = _checked(copy, _given(key) or str(place.public_key()), checkpoints or [])
    if as_json:
        emit({**_fields(report), "ok": report.ok, "tail_provable": report.tail_provable})
    else:
        for line in report.lines():
            say(shown(line))
    if not report.ok:
        raise typer.Exit(NO)


def _fields(report: Report) -> dict[str, object]:
    return {name: getattr(report, name) for name in report.__struct_fields__}


def _given(key: str) -> str:
    if not key:
        return ""
    with suppress(OSError):
        if Path(key).is_file():
            return Path(key).read_text(encoding="utf-8").strip()
    return key


def _known(export: Path) -> str:
    """Return the key of the log here, if the export is of that log: a key in the export itself proves nothing.

    Raises:
        TapPassConfigError: it is not.
    """
    with suppress(TapPassConfigError), here() as place:
        public = place.public_key()
        with suppress(OSError), export.open("rb") as file:
            if public.name.removeprefix("tappass-").encode() in file.readline(4096):
                return str(public)
    raise TapPassConfigError(
        f"{export} is not an export of the log here, so its public key is needed: --key KEY; "
        "`tappass audit key` prints it where the log is"
    )


def _checked(export: Path, public: str, checkpoints: list[Path]) -> Report:
    from tappass.engine.audit.verify import verify as read

    size = export.stat().st_size if export.is_file() else 0
    with progress("verifying (bytes)", size) as done:
        return read(export, public, checkpoints=checkpoints, progress=done)


def write_export(place: Place, out: BinaryIO, *, content: bool) -> Header:
    """Write the whole log here to a file, showing how far it is."""
    from tappass.engine.audit.export import export

    head = place.store.read.head()
    with progress("exporting (events)", head.size if head else 0) as done:
        return export(place.store, out, place.log_key, content=content, progress=done)


@app.command("export")
def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="A directory, a file, or - for stdout.")] = Path(),
    content: Annotated[bool, typer.Option("--content", help="With stored arguments, prompts and results.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: Json = False,
) -> None:
    """Export the whole log, signed up to its end, as JSON lines."""
    with here() as place:
        if str(out) == "-":
            write_export(place, sys.stdout.buffer, content=content)
            return
        header, file = save_export(place, out, content=content, force=force)
    if as_json:
        emit({"file": str(file.absolute()), "header": header})
        return
    say(f"{header.size} events of {header.log_id} in {shown(file)}", f"verify with --key {header.key}")


def save_export(place: Place, out: Path, *, content: bool, force: bool = False) -> tuple[Header, Path]:
    """Export to a file, or under the log's name into a directory; whole or not at all.

    Raises:
        TapPassConfigError: the file is there already, or cannot be written.
    """
    file = out / f"{place.public_key().name}.jsonl" if out.is_dir() else out
    if file.exists() and not force:
        raise TapPassConfigError(f"{file} is there already; --force overwrites it")
    draft = file.with_name(f".{file.name}.part")
    try:
        with draft.open("wb") as opened:
            header = write_export(place, opened, content=content)
        draft.replace(file)
    except OSError as error:
        raise TapPassConfigError(f"cannot write the export to {file} ({error.strerror})") from error
    finally:
        draft.unlink(missing_ok=True)
    return header, file


@app.command("tail")
def tail(
    count: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the latest events.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with events as they come.")] = False,
    as_json: Json = False,
) -> None:
    """Show the latest events; with --json one JSON object a line."""
    with here() as place:
        head = place.store.read.head()
        seen = max((head.size if head else 0) - count, 0) - 1
        while True:
            events = place.store.read.events(after=seen, limit=_PAGE)
            for event in events:
                emit(event) if as_json else say(_line(event))
                seen = event.seq
            if not follow and len(events) < _PAGE:
                return
            if not events:
                time.sleep(_POLL_S)


def _line(event: AuditEvent) -> str:
    what = [event.kind, event.name, event.outcome, event.status, event.blocked_by, event.actor, event.error_type]
    words = [event.at, f"{event.seq:>6}", f"{event.type:<16}", event.session_id, *what, *event.rules, *event.findings]
    return shown("  ".join(word for word in words if word))


@app.command("key")
def key(as_json: Json = False) -> None:
    """Print the public key that verifies the log here; give it to whoever is to check an export."""
    with here() as place:
        public = place.public_key()
    if as_json:
        emit({"key": str(public), "origin": public.name})
    else:
        say(str(public))
