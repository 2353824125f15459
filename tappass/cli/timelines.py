"""A session's timeline as a tree for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text
from rich.tree import Tree

from tappass.cli.console import inline, shown
from tappass.engine import phrases
from tappass.engine.phrases import minute
from tappass.engine.timeline import ApprovalLine, CallLine, Timeline
from tappass.wire.chat import prompt_text

_VALUE, _ARGUMENTS = 60, 160
_TONES = {"good": "green", "held": "bold yellow", "bad": "bold red", "warn": "yellow"}
_REMARKS = {phrases.WARN: "yellow", phrases.BAD: "red", phrases.LABEL: "magenta", phrases.ASIDE: "dim"}
STATUS_STYLES = {"completed": "green", "failed": "red", "suspended": "yellow", "open": "cyan"}


def tree(timeline: Timeline, *, full: bool = False, inside: Timeline | None = None) -> Tree:
    """Return a session with its calls and its child sessions; `full` cuts no argument short."""
    root = Tree(_heading(timeline, inside), guide_style="dim")
    for entry in timeline.entries:
        if isinstance(entry, Timeline):
            root.add(tree(entry, full=full, inside=timeline))
        else:
            root.add(_call(entry, full=full))
    if not timeline.entries:
        root.add(Text("no calls", style="dim"))
    return root


def _heading(timeline: Timeline, inside: Timeline | None) -> Text:
    """Name a session; of a child only what its parent does not say."""
    session = timeline.session
    heading = Text(shown(session.name or session.kind), style="bold")
    heading.append(f"  {session.status}", style=STATUS_STYLES.get(session.status, ""))
    if session.mode != "enforce":
        heading.append(f"  {shown(session.mode)}", style="yellow")
    heading.append(f"  {shown(session.session_id)}", style="not bold dim")
    if inside is None or inside.session.agent != session.agent:
        heading.append(f"  agent {shown(session.agent)}", style="not bold dim")
    if inside is None:
        heading.append(f"  {minute(session.opened_at)}", style="not bold dim")
    if timeline.metadata:
        heading.append(f"  {inline(timeline.metadata, limit=_ARGUMENTS)}", style="not bold dim")
    return heading


def _call(call: CallLine, *, full: bool) -> Text:
    line = Text()
    word, tone = phrases.outcome(call)
    line.append(word, style=_TONES[tone])
    line.append(f"  {shown(call.name)}", style="bold")
    line.append(_arguments(call, full=full))
    for text, style in _remarks(call):
        line.append("  ")
        line.append(text, style=style)
    return line


def _arguments(call: CallLine, *, full: bool) -> str:
    if call.arguments is None:
        return "(…)"
    if call.kind == "llm":
        prompt = prompt_text(tuple(call.arguments.get("messages") or ()))
        return f"({inline(prompt, limit=0 if full else _ARGUMENTS)})"
    parts = (f"{shown(k)}={inline(v, limit=0 if full else _VALUE)}" for k, v in call.arguments.items())
    text = ", ".join(parts)
    return f"({text})" if full or len(text) <= _ARGUMENTS else f"({text[:_ARGUMENTS]}…)"


def _remarks(call: CallLine) -> Iterator[tuple[str, str]]:
    if by := phrases.rules(call):
        yield f"by {by}", "cyan"
    for text, tone in phrases.before(call):
        yield text, _REMARKS[tone]
    if call.approval is not None:
        yield from _approval(call.approval, held=call.outcome == "needs_approval")
    for text, tone in phrases.after(call):
        yield text, _REMARKS[tone]


def _approval(approval: ApprovalLine, *, held: bool) -> Iterator[tuple[str, str]]:
    """Say of a held call what people said, of a resumed one whose yes let it run."""
    name, by = shown(approval.approval_id), ", ".join(shown(vote.by) for vote in approval.votes)
    if not held:
        yield f"resumed by {name}, approved by {by}", "green"
        return
    if approval.state == "pending":
        yield f"waits for people until {minute(approval.expires_at)}: {name}", "yellow"
    else:
        state = "approved" if approval.state == "redeemed" else approval.state
        yield f"{name} {state}", "green" if state == "approved" else "red"
    for vote in approval.votes:
        said = "approved" if vote.vote == "approve" else "denied"
        yield f"{shown(vote.by)} {said}" + (f": {shown(vote.reason, limit=_VALUE)}" if vote.reason else ""), "cyan"
