"""A session's timeline as a tree for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text
from rich.tree import Tree

from tappass.cli.console import inline, shown
from tappass.engine.chat_arguments import prompt_text
from tappass.engine.timeline import ApprovalLine, CallLine, SessionLine, Timeline

_VALUE, _ARGUMENTS = 60, 160
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


def minute(at: str) -> str:
    """Return an RFC 3339 time in UTC for reading, to the minute."""
    return f"{shown(at[:16].replace('T', ' '))}Z"


def duration(microseconds: int) -> str:
    """Return a duration in the unit that suits it."""
    if microseconds < 1000:
        return f"{microseconds} µs"
    return f"{microseconds / 1000:.1f} ms" if microseconds < 1_000_000 else f"{microseconds / 1_000_000:.1f} s"


def _call(call: CallLine, *, full: bool) -> Text:
    line = Text()
    line.append(*_outcome(call))
    line.append(f"  {shown(call.name)}", style="bold")
    line.append(_arguments(call, full=full))
    for text, style in _remarks(call):
        line.append("  ")
        line.append(text, style=style)
    return line


def _outcome(call: CallLine) -> tuple[str, str]:
    if call.outcome == "needs_approval":
        return "HELD", "bold yellow"
    if call.outcome != "allow":
        return ("BLOCKED" if call.outcome == "block" else call.outcome.upper(), "bold red")
    if call.unsettled:
        return "UNSETTLED", "bold yellow"
    if call.withheld_by:
        return "WITHHELD", "bold red"
    return ("allowed", "green") if call.status == "completed" else (shown(call.status), "yellow")


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
    if call.rules:
        yield f"by {shown(', '.join(call.rules))}", "cyan"
    if call.blocked_by and call.blocked_by not in call.rules:
        yield f"by {shown(call.blocked_by)}", "cyan"
    if call.would_be:
        yield f"observed: would be {shown(call.would_be)}", "yellow"
    if call.outcome != "allow":
        yield "nothing ran", "dim"
    if call.approval is not None:
        yield from _approval(call.approval, held=call.outcome == "needs_approval")
    if call.classification:
        yield shown(call.classification), "magenta"
    if call.findings:
        yield f"arguments hold {shown(counts(call.findings))}", "yellow"
    if call.withheld_by:
        yield f"result withheld by {shown(call.withheld_by)}", "red"
    masked = tuple(each for each in call.result_findings if each.rpartition(":")[0] in call.masked)
    if masked:
        yield f"result masked: {shown(counts(masked))}", "yellow"
    if left := tuple(each for each in call.result_findings if each not in masked):
        yield f"result held {shown(counts(left))}", "yellow"
    if call.error_type:
        yield shown(call.error_type), "red"
    if call.unsettled:
        yield "no ending on record", "yellow"
    if call.model and call.model != call.name:
        yield f"answered by {shown(call.model)}", "dim"
    if any(call.tokens):
        yield f"{'+'.join(map(str, call.tokens))} tokens", "dim"
    if call.status:
        yield duration(call.duration_us), "dim"


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


def counts(findings: tuple[str, ...]) -> str:
    """Return `("EMAIL:2", "US_SSN:1")` as `2 EMAIL, US_SSN`."""
    parts = (finding.rpartition(":") for finding in findings)
    return ", ".join(kind if count == "1" else f"{count} {kind}" for kind, _, count in parts)


def summary(session: SessionLine) -> str:
    """Return the counts of one session in words."""
    return _words(session.calls, session.refused, session.held, session.unsettled)


def totals(timeline: Timeline) -> str:
    """Return the counts of a session and all inside it in words."""
    return _words(*map(sum, zip(*_counts(timeline), strict=True)))


def _counts(timeline: Timeline) -> Iterator[tuple[int, int, int, int]]:
    session = timeline.session
    yield session.calls, session.refused, session.held, session.unsettled
    for child in timeline.children:
        yield from _counts(child)


def _words(calls: int, refused: int, held: int, unsettled: int) -> str:
    words = [f"{calls} {'call' if calls == 1 else 'calls'}"]
    others = ((refused, "refused"), (held, "held"), (unsettled, "unsettled"))
    words += [f"{count} {what}" for count, what in others if count]
    return ", ".join(words)
