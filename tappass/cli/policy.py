"""`tappass policy`: the group of commands, and what is in force: shown, accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import typer

from tappass.cli.checks import check, run_tests, try_out
from tappass.cli.console import agreed, emit, say, shown
from tappass.cli.exits import NO
from tappass.cli.options import Json, Yes
from tappass.cli.place import here

if TYPE_CHECKING:
    from tappass.engine.pipelines import Pipeline
    from tappass.engine.policy.document import Document

app = typer.Typer(no_args_is_help=True, help="The rules: check, test, try out, accept, show.")
app.command("check")(check)
app.command("test")(run_tests)
app.command("try")(try_out)


@app.command("show")
def show(as_json: Json = False) -> None:
    """Show the rules in force, who accepted them, and whether a change waits."""
    with here() as place:
        pipelines = place.pipelines()
        accepted, pending = pipelines.accepted(), pipelines.pending()
    if as_json:
        emit({"accepted": _version(accepted), "pending": pending})
        return
    if accepted is None:
        say("no policy was accepted yet; the first governed call or `tappass init` accepts what is on disk")
        return
    say(f"pipeline {accepted.uuid}, accepted by {shown(accepted.accepted_by)} at {accepted.accepted_at}")
    _show_rules(accepted.policy.document)
    if pending is not None:
        say("", f"a change on disk waits: {shown(pending.problem) or 'review it, then run `tappass policy accept`'}")


def _version(pipeline: Pipeline | None) -> dict[str, Any] | None:
    if pipeline is None:
        return None
    by = {"pipeline_uuid": pipeline.uuid, "accepted_by": pipeline.accepted_by, "accepted_at": pipeline.accepted_at}
    return {**by, "policy": pipeline.policy.document, "settings": msgspec.Raw(pipeline.settings.bundle)}


def _show_rules(document: Document) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("rule", "for", "effect", "when", "written in"):
        table.add_column(column, overflow="fold")
    for rule in document.rules:
        narrowed = ("tool", "llm", "agent", "session", "mcp_server")
        target = ", ".join(f"{name}: {getattr(rule, name)}" for name in narrowed if getattr(rule, name))
        table.add_row(*(Text(shown(text)) for text in (rule.id, target, rule.effect, rule.when, rule.source)))
    for setting in document.detect:
        table.add_row(setting.id, "", setting.action, "", Text(shown(setting.source)))
    table.add_row("default", "", document.default, "", Text(shown(document.default_source)))
    say(table)


@app.command("accept")
def accept(yes: Yes = False, as_json: Json = False) -> None:
    """Show what changed and put it in force; needs the approver key."""
    with here(accepting=True) as place:
        from tappass.cli.changes import changes
        from tappass.engine.approver import Approvers
        from tappass.engine.leaves import Leaves
        from tappass.wire.ids import SYSTEM_CLOCK

        sources, old = place.pipelines().sources(), place.pipelines().accepted()
        if old is not None and old.sources_digest == sources.digest:
            _say_accepted(old, as_json=as_json, news=False)
            return
        policy, settings = place.pipelines().load(sources)
        changed = changes(None if old is None else (old.policy.document, old.settings), (policy.document, settings))
        approver = Approvers(place.store, Leaves(SYSTEM_CLOCK)).present()
        if not as_json:
            _show_changes(changed)
        if not agreed("Put this in force?", yes=yes):
            raise typer.Exit(NO)
        # Exactly what was shown, whatever is written to the files meanwhile.
        _, new = place.pipelines(fixed=sources).accept(approver.name)
    _say_accepted(new, as_json=as_json, news=True)


def _show_changes(changed: list[Any]) -> None:
    from tappass.cli.changes import lines

    if not changed:
        say("only comments, order or places changed; the rules and settings say the same")
    for line in lines(changed):
        say(line)


def _say_accepted(pipeline: Pipeline, *, as_json: bool, news: bool) -> None:
    if as_json:
        emit({"accepted": _version(pipeline), "changed": news})
        return
    what = "in force for sessions opened from now on" if news else "in force already; nothing to accept"
    say(f"pipeline {pipeline.uuid} is {what}, accepted by {shown(pipeline.accepted_by)}")
