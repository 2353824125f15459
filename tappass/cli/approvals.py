"""`tappass approvals`: what waits for people, exactly what would run, and their votes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tappass.cli.console import agreed, complain, emit, inline, say, shown
from tappass.cli.exits import NO
from tappass.cli.options import Json, Yes
from tappass.cli.people import Reason, approver, leaves
from tappass.cli.place import Place, here
from tappass.errors import TapPassConfigError

if TYPE_CHECKING:
    from rich.text import Text

    from tappass.engine.approver import Approver
    from tappass.engine.policy.document import Rule
    from tappass.engine.voting import Held, Voting

app = typer.Typer(invoke_without_command=True, help="Calls that wait for people: list, show, approve, deny.")

_STATES = ("pending", "approved", "denied", "expired", "redeemed")
_STYLES = dict(zip(_STATES, ("yellow", "green", "red", "dim", "cyan"), strict=True))
_CUT = 100
Id = Annotated[str, typer.Argument(metavar="ID|URL", help="An approval's id, whole, or its approval_url.")]


@app.callback()
def approvals(ctx: typer.Context) -> None:
    """Without a command: list what waits."""
    if ctx.invoked_subcommand is None:
        listing()


@app.command("list")
def listing(
    everything: Annotated[bool, typer.Option("--all", help="In every state, not only what waits.")] = False,
    state: Annotated[str, typer.Option("--state", help=f"In this state: {', '.join(_STATES)}.")] = "",
    as_json: Json = False,
) -> None:
    """List approvals, the oldest first: what waits, unless said otherwise."""
    if state and (everything or state not in _STATES):
        problem = "--all and --state exclude each other" if everything else f"there is no state `{state}`"
        raise TapPassConfigError(f"{problem}; --state is one of {', '.join(_STATES)}")
    with here() as place:
        held = voting_at(place).list("" if everything else state or "pending")
    if as_json:
        emit(held)
        return
    if not held:
        say("nothing waits for people" if not (everything or state) else "no approvals")
    for each in held:
        say(_line(each))


@app.command("show")
def show(approval: Id, as_json: Json = False) -> None:
    """Show exactly what will run, who asks, which rules hold it, until when, and what people have said."""
    with here() as place:
        voting = voting_at(place)
        held = _find(voting, approval)
        rules = voting.asking(held)
    if as_json:
        emit({**_fields(held), "asking": rules})
        return
    say(*_whole(held, rules))


@app.command("approve")
def approve(approval: Id, reason: Reason, yes: Yes = False) -> None:
    """Agree that exactly this call may run, once; shows it and asks first. Needs the approver key."""
    _vote(approval, reason, "Let exactly this run, once?", yes=yes, how=lambda voting: voting.approve)


@app.command("deny")
def deny(approval: Id, reason: Reason, yes: Yes = False) -> None:
    """Refuse a call for good; shows it and asks first. Needs the approver key."""
    _vote(approval, reason, "Deny it for good?", yes=yes, how=lambda voting: voting.deny)


def voting_at(place: Place) -> Voting:
    """Return the approvals of a place."""
    from functools import partial

    from tappass.engine.approvals import ApprovalGate
    from tappass.engine.audit.keys import equality_key
    from tappass.engine.voting import Voting
    from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS

    gate = ApprovalGate(leaves(), partial(equality_key, place.database.parent), SYSTEM_CLOCK, UUID_IDS)
    return Voting(place.store, leaves(), gate, SYSTEM_CLOCK)


def _vote(
    asked: str, reason: str, question: str, *, yes: bool, how: Callable[[Voting], Callable[[str, Approver, str], Held]]
) -> None:
    from tappass.engine.words import worded

    reason = worded(reason, "the reason")
    with here() as place:
        voting = voting_at(place)
        held = _find(voting, asked)
        say(*_whole(held, voting.asking(held)), "")
        by = approver(place)
        if held.state == "pending" and not agreed(question, yes=yes):
            raise typer.Exit(NO)
        try:
            after = how(voting)(held.approval_id, by, reason)
        except TapPassConfigError as error:
            complain(str(error))
            raise typer.Exit(NO) from error
    say(f"{shown(after.approval_id)} is {after.state}: {_progress(after)}; on record as {shown(by.name)}")


def _find(voting: Voting, asked: str) -> Held:
    """Return the approval that was meant.

    Raises:
        TapPassConfigError: it is a resume token, which agents hold: it names nothing to vote on.
        typer.Exit: there is none.
    """
    from tappass.engine.approvals import TOKEN_PREFIX

    wanted = asked.rstrip("/").rpartition("/")[2].partition("?")[0]
    if wanted.startswith(TOKEN_PREFIX):
        raise TapPassConfigError("a resume token resumes a call; to vote, give the approval's id or its approval_url")
    try:
        return voting.show(wanted)
    except TapPassConfigError as error:
        complain(str(error))
        raise typer.Exit(NO) from error


def _fields(held: Held) -> dict[str, Any]:
    import msgspec

    return msgspec.structs.asdict(held)


def _line(held: Held) -> Text:
    from rich.text import Text

    from tappass.engine.phrases import minute

    said = Text(f"{shown(held.approval_id)}  {minute(held.requested_at)}  ")
    said.append(held.state.ljust(8), style=_STYLES.get(held.state, ""))
    if held.action is not None:
        said.append(f"  {shown(held.action['name'])}", style="bold")
        arguments = ", ".join(f"{shown(k)}={inline(v)}" for k, v in held.action["arguments"].items())
        said.append(f"({arguments if len(arguments) <= _CUT else f'{arguments[:_CUT]}…'})")
    said.append(f"  by {shown(', '.join(held.rules))}", style="cyan")
    said.append(f"  {_progress(held)}  until {minute(held.expires_at)}  agent {shown(held.agent)}", style="dim")
    return said


def _progress(held: Held) -> str:
    return f"{held.approved_by} of {held.approvers} approved"


def _whole(held: Held, rules: tuple[Rule, ...]) -> Iterator[Text]:
    """Return everything about one approval, nothing cut: who votes must have seen it."""
    from rich.text import Text

    from tappass.engine.phrases import minute

    heading = Text(shown(held.approval_id), style="bold")
    heading.append(f"  {held.state}", style=_STYLES.get(held.state, ""))
    yield heading
    yield from _action(held)
    for rule in rules:
        where = f" ({shown(rule.source)})" if rule.source else ""
        yield _row("rule", f"{shown(rule.id)}{where}" + (f": {shown(rule.message)}" if rule.message else ""))
    registered = f", registered by {shown(held.requested_by)}" if held.requested_by else ""
    yield _row("agent", f"{shown(held.agent)}{registered}")
    yield _row("session", f"{shown(held.session_id)}, task {shown(held.task_id)}")
    yield _row("asked", f"{minute(held.requested_at)}, stands until {minute(held.expires_at)}")
    yield _row("votes", _progress(held))
    for vote in held.votes:
        yield _row("", f"{shown(vote.by)}: {shown(vote.vote)} at {minute(vote.at)}: {shown(vote.reason)}")
    if held.redeemed_at:
        yield _row("used", minute(held.redeemed_at))
    yield _row("bound to", f"action {held.action_digest}, definition {shown(held.definition_digest) or 'none'}")


def _action(held: Held) -> Iterator[Text]:
    if held.action is None:
        yield _row("call", "decided, so its arguments are no longer kept here; see `tappass sessions show`")
        return
    action = held.action
    server = f" on the server {shown(action['server'])}" if action.get("server") else ""
    yield _row("model" if action["kind"] == "llm" else "tool", f"{shown(action['name'])}{server}")
    for name, value in action["arguments"].items():
        yield _row("", f"{shown(name)} = {inline(value)}")
    if not action["arguments"]:
        yield _row("", "no arguments")


def _row(label: str, text: str) -> Text:
    from rich.text import Text

    row = Text(f"  {label:<9}", style="dim")
    row.append(text, style="not dim")
    return row
