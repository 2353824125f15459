"""`tappass budgets`: what is spent now, of what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tappass.cli.console import emit, say, shown
from tappass.cli.options import Json
from tappass.cli.place import here

if TYPE_CHECKING:
    from tappass.engine.spent import BudgetLine

_UNITS = {"tool_calls": "tool calls", "llm_tokens": "tokens", "usd": "USD"}


def budgets(
    limit: Annotated[
        int, typer.Option("-n", "--limit", min=1, max=10_000, help="How many open sessions, newest first.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """Show what is spent of the budgets: of today (UTC), of each agent, of open sessions."""
    with here() as place:
        from tappass.engine.spent import budget_lines, limits_of_calls
        from tappass.wire.ids import SYSTEM_CLOCK, rfc3339

        read = place.store.read
        accepted = place.pipelines().accepted()
        lines: list[BudgetLine] = []
        if accepted is not None:
            day = rfc3339(SYSTEM_CLOCK.time_ns())[:10]
            lines = [*limits_of_calls(accepted.policy), *budget_lines(read, accepted.policy, day, sessions=limit)]
    if as_json:
        emit(lines)
    elif not lines:
        say("the policy has no budgets, and no rule reads what is spent")
    else:
        _show(lines)


def _show(lines: list[BudgetLine]) -> None:
    from rich.text import Text

    whose = [shown(" ".join(filter(None, (line.scope, line.subject, line.name)))) for line in lines]
    widest = max(map(len, whose))
    for line, name in zip(lines, whose, strict=True):
        said = Text(f"{name.ljust(widest)}  ")
        if line.scope == "call":
            said.append(f"at most {line.limit} {_UNITS[line.measure]} each" if line.limit else "counted")
        else:
            style = "bold red" if line.limit and float(line.used) >= float(line.limit) else ""
            said.append(f"{line.used} of {line.limit}" if line.limit else line.used, style=style)
            said.append(f" {_UNITS[line.measure]}")
        say(said)
