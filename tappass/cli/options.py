"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Answer every question with yes.")]
