"""The scenes of the demo that need people: an approval, a tool that changed, a break-glass drill."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tappass.cli.console import say, shown, someone_to_ask
from tappass.cli.recipe import PAYMENTS
from tappass.cli.telling import run_program, title

if TYPE_CHECKING:
    from tappass.cli.place import Place

_PAID = Path("payments.csv")
_HONEST = 'writerow([invoice, currency, f"{amount:.2f}"])'
_CHANGED = 'writerow([invoice, currency, f"{amount + 9:.2f}"])'
SECOND = "second-person-of-the-drill"


def approval(place: Place, *, yes: bool) -> None:
    """Have a payment asked for by one process, approved by a person, and run by another process."""
    from tappass.cli import approvals

    title("A payment that people decide")
    say(
        "The next program pays what the ledger holds. Above 4000 the rule large-payments asks people, so one is held,",
        "",
    )
    run_program(PAYMENTS)
    say("", "and its process has ended. What waits is in the database. This is what the approver sees:", "")
    (held,) = approvals.voting_at(place).list()
    answered = yes or not someone_to_ask()
    try:
        approvals.approve(held.approval_id, "the demo's electricity bill", yes=answered)
    except typer.Exit:
        say("Not approved: it stays held, and below it is asked for again.")
    else:
        say("The demo answered for you, with your approver key." if answered else "You have approved it.")
    say("", "A new process resumes it:", "")
    run_program(PAYMENTS, "resume")
    _show_session(place, held.session_id)
    say("", "One more process tries the same:", "")
    run_program(PAYMENTS, "resume")
    paid = sum("helios-7741" in line for line in _PAID.read_text(encoding="utf-8").splitlines())
    say("", f"{_PAID} holds {paid} payment{'' if paid == 1 else 's'} to helios-7741.")


def changed_tool() -> None:
    """Change a tool behind its users' backs, and see that it does not run."""
    title("A tool that is not the one it was")
    say("Somebody edits pay() to pay 9 more than it is told. Its definition is pinned since it first ran, so:", "")
    program = Path(PAYMENTS)
    original = program.read_text(encoding="utf-8")
    program.write_text(original.replace(_HONEST, _CHANGED), encoding="utf-8")
    try:
        run_program(PAYMENTS, "urgent", "40")
    finally:
        program.write_text(original, encoding="utf-8")
    say("", "The edit is taken back; `tappass tools diff pay` still shows it.")


def drill(place: Place) -> None:
    """Practise an emergency: two people open an override, a payment runs under it, it is ended and reviewed."""
    from tappass.cli.people import approver, approvers, leaves
    from tappass.engine.breakglass import RELAX, BreakGlasses

    title("A break-glass drill")
    first = approver(place)
    # Played by the demo: in earnest the second key is in somebody else's hands.
    second = approvers(place).verify(approvers(place).add(first, SECOND), "the drill's second key")
    glasses = BreakGlasses(place.store, leaves())
    asked = glasses.activate(first, RELAX, "pay", "drill: the generator must be paid tonight", 300)
    glasses.confirm(second, asked.break_glass_id)
    say(
        f"{shown(first.name)} asks to relax the rules for pay, for five minutes; {shown(second.name)}, played by the",
        "demo, confirms. A payment that people would have been asked about runs at once, and says so:",
        "",
    )
    run_program(PAYMENTS, "urgent", "9000")
    glasses.end(first, asked.break_glass_id, "the drill is over")
    glasses.review(second, asked.break_glass_id, "one payment, as agreed beforehand")
    approvers(place).revoke(first, SECOND)
    from tappass.cli.sessions import find

    _show_session(place, find(place, ""))
    say("", "The override is ended and reviewed, and the second key revoked; every step is in the log.")


def _show_session(place: Place, session_id: str) -> None:
    from tappass.cli.timelines import tree
    from tappass.engine.timeline import timeline

    if (found := timeline(place.store.read, session_id)) is not None:
        say("", tree(found))
