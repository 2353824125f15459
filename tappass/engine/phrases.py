"""A session's record in words, for the terminal and for pages; all of it harmless to show."""

from __future__ import annotations

from collections.abc import Iterator

from tappass.engine.timeline import CallLine, SessionLine, Timeline
from tappass.harmless import shown

# How a remark is to be taken: a warning, a refusal, a label, or by the way.
WARN, BAD, LABEL, ASIDE = "warn", "bad", "label", "aside"


def minute(at: str) -> str:
    """Return an RFC 3339 time in UTC for reading, to the minute."""
    return f"{shown(at[:16].replace('T', ' '))}Z"


def duration(microseconds: int) -> str:
    """Return a duration in the unit that suits it."""
    if microseconds < 1000:
        return f"{microseconds} µs"
    return f"{microseconds / 1000:.1f} ms" if microseconds < 1_000_000 else f"{microseconds / 1_000_000:.1f} s"


def outcome(call: CallLine) -> tuple[str, str]:
    """Return what came of a call in one word, and how good that is: `good`, `warn`, `held` or `bad`."""
    if call.outcome == "needs_approval":
        return "HELD", "held"
    if call.outcome != "allow":
        return ("BLOCKED" if call.outcome == "block" else shown(call.outcome.upper()), "bad")
    if call.unsettled:
        return "UNSETTLED", "held"
    if call.withheld_by:
        return "WITHHELD", "bad"
    return ("allowed", "good") if call.status == "completed" else (shown(call.status), "warn")


def rules(call: CallLine) -> str:
    """Return which rules matched, and what else refused it."""
    return shown(", ".join([*call.rules, *([call.blocked_by] if call.blocked_by not in ("", *call.rules) else [])]))


def before(call: CallLine) -> Iterator[tuple[str, str]]:
    """Yield what is to be said of a decision beside its rules: a remark, and how it is to be taken."""
    if call.would_be:
        why = f"break-glass {shown(call.break_glass)}" if call.break_glass else "observed"
        yield f"{why}: would be {shown(call.would_be)}", WARN
    if call.outcome != "allow":
        yield "nothing ran", ASIDE


def after(call: CallLine) -> Iterator[tuple[str, str]]:
    """Yield what was found in a call, and how it ended: a remark, and how it is to be taken."""
    if call.classification:
        yield shown(call.classification), LABEL
    if call.findings:
        yield f"arguments hold {shown(counts(call.findings))}", WARN
    if call.withheld_by:
        yield f"result withheld by {shown(call.withheld_by)}", BAD
    masked = tuple(each for each in call.result_findings if each.rpartition(":")[0] in call.masked)
    if masked:
        yield f"result masked: {shown(counts(masked))}", WARN
    if left := tuple(each for each in call.result_findings if each not in masked):
        yield f"result held {shown(counts(left))}", WARN
    if call.error_type:
        yield shown(call.error_type), BAD
    if call.unsettled:
        yield "no ending on record", WARN
    if call.model and call.model != call.name:
        yield f"answered by {shown(call.model)}", ASIDE
    if any(call.tokens):
        yield f"{'+'.join(map(str, call.tokens))} tokens", ASIDE
    if call.status:
        yield duration(call.duration_us), ASIDE


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
