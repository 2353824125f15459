"""What the commands for people share: the approver at the keyboard, options, lists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from tappass.cli.console import say, shown

if TYPE_CHECKING:
    from tappass.cli.place import Place
    from tappass.engine.approver import Approver, Approvers
    from tappass.engine.leaves import Leaves

Reason: TypeAlias = Annotated[str, typer.Option("--reason", "-r", help="Why; kept beside the log.")]


def leaves() -> Leaves:
    """Return how the log of this place is written."""
    from tappass.engine.leaves import Leaves
    from tappass.wire.ids import SYSTEM_CLOCK

    return Leaves(SYSTEM_CLOCK)


def approvers(place: Place) -> Approvers:
    """Return the approvers here."""
    from tappass.engine.approver import Approvers

    return Approvers(place.store, leaves())


def approver(place: Place) -> Approver:
    """Return who is at the keyboard, by their key.

    Raises:
        TapPassConfigError: no key is shown, or it is nobody's.
    """
    return approvers(place).present()


def table(columns: Iterable[str], rows: Iterable[Iterable[object]], *, empty: str) -> None:
    """Print a table, or the words for there being nothing to show."""
    from rich.table import Table
    from rich.text import Text

    listed = [[Text(shown(cell, limit=200)) for cell in row] for row in rows]
    if not listed:
        say(empty)
        return
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in listed:
        drawn.add_row(*row)
    say(drawn)


def minute(at: str) -> str:
    """Return a time as lists show it, "" for none."""
    return at[:16].replace("T", " ")
