"""What reaches the terminal: text made harmless first, JSON, questions, progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from tappass.errors import TapPassConfigError
from tappass.harmless import is_harmful
from tappass.harmless import shown as shown  # (every command takes it from here)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# Wide enough that no line of a pipe or a log file is ever folded.
_UNFOLDED = 2000


def inline(value: Any, *, limit: int = 0) -> str:
    """Return a JSON value on one line, harmless to show."""
    return shown(msgspec.json.encode(value).decode(), limit=limit)


def console(*, stderr: bool = False) -> Console:
    """Return a console that takes no markup, so that `[red]` in a name stays what it is."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNFOLDED
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def say(*parts: RenderableType) -> None:
    """Print to stdout; text is never folded but by the terminal itself, so that it can be copied."""
    from rich.text import Text

    out = console()
    for part in parts or ("",):
        out.print(part, soft_wrap=isinstance(part, str | Text))


def complain(message: str, *more: str) -> None:
    """Print one line to stderr, and further ones if given."""
    sys.stderr.write("".join(f"{shown(line)}\n" for line in (f"tappass: {message}", *more)))


def emit(value: Any) -> None:
    """Print one JSON document on one line, escaped as far as a terminal could take offence."""
    text = msgspec.json.encode(value).decode()
    if not text.isascii():
        text = "".join(_json_escape(c) if is_harmful(c) else c for c in text)
    sys.stdout.write(text.replace("\x7f", "\\u007f") + "\n")
    sys.stdout.flush()


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def agreed(question: str, *, yes: bool) -> bool:
    """Ask a person; `yes` has answered already.

    Raises:
        TapPassConfigError: there is nobody to ask.
    """
    if yes:
        return True
    if not someone_to_ask():
        raise TapPassConfigError(f"{question} There is nobody to ask here; `--yes` answers yes")
    import typer

    return typer.confirm(question)


def someone_to_ask() -> bool:
    """Tell whether a person sits at the other end."""
    return sys.stdin.isatty()


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, if that is a terminal and it takes a while; yields what takes the count done so far."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    out = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
