"""The approvals inbox: exactly what will run, who asks, which rules hold it; people vote, with a reason."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar import Response, get, post

from tappass.engine.approvals import PENDING
from tappass.engine.approver import Approver
from tappass.engine.credentials import APPROVER, Principal
from tappass.engine.hopping import hop
from tappass.engine.inbox import Inbox
from tappass.engine.policy.document import Rule
from tappass.engine.voting import Held, Voting
from tappass.engine.words import worded
from tappass.errors import TapPassConfigError
from tappass.server.auth import PAGE
from tappass.server.house import House
from tappass.server.pages.rendering import page, redirect
from tappass.server.pages.visiting import AnyRequest, Visitor, form, house_of, visitor_of

_WAITING, _DECIDED = 20, 50
# Longer arguments are read on the approval's own page before anybody can vote.
_INLINE = 4_000
_LONGEST_FORM = 64_000
TONES = {"approved": "good", "redeemed": "good", "denied": "bad", "pending": "held"}


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One approval; `hurdle` says why this visitor cannot vote, "" if they can; `left` how long it still stands."""

    held: Held
    name: str
    kind: str
    server: str
    left: str
    rules: tuple[Rule, ...]
    hurdle: str
    size: int = 0
    long: bool = False


class Desk:
    """What one visitor sees of the approvals, and may do."""

    def __init__(self, house: House, principal: Principal) -> None:
        self.principal = principal
        self._now = datetime.fromtimestamp(house.clock.time_ns() / 1e9, UTC)
        plane = house.plane(principal.org_id, principal.project_id)
        self.voting: Voting = plane.engine.voting
        self.inbox = Inbox(plane.engine.store.read, principal.org_id, principal.project_id)

    def item(self, approval_id: str) -> Item | None:
        """Return one approval, or None if there is none here."""
        if not approval_id.isprintable() or not self.inbox.holds(approval_id):
            return None
        held = self.voting.show(approval_id)
        action = held.action or {}
        size = len(msgspec.json.encode(action.get("arguments")))
        return Item(
            held=held,
            name=action.get("name") or self.inbox.name(approval_id),
            kind={"llm": "model", "tool": "tool"}.get(action.get("kind", ""), ""),
            server=action.get("server", ""),
            left=left(held.expires_at, self._now) if held.state == PENDING else "",
            rules=self.voting.asking(held),
            hurdle=hurdle(self.principal, held),
            size=size,
            long=size > _INLINE,
        )

    def pages(self, after: str, before: str) -> dict[str, Any]:
        """Return what the inbox shows."""
        self.voting.sweep()
        ids = self.inbox.waiting(after=after, limit=_WAITING + 1)
        decided = self.inbox.decided(before=before, limit=_DECIDED + 1)
        items = [self.item(each) for each in ids[:_WAITING]]
        return {
            "total": self.inbox.count(),
            "pending": [item for item in items if item is not None and item.held.state == PENDING],
            "onward": ids[_WAITING - 1] if len(ids) > _WAITING else "",
            "decided": [_line(line) for line in decided[:_DECIDED]],
            "older": decided[_DECIDED - 1].approval_id if len(decided) > _DECIDED else "",
        }

    def vote(self, approval_id: str, vote: str, reason: str) -> None:
        """Vote as this visitor.

        Raises:
            TapPassConfigError: they may not, the reason is missing, or it was decided meanwhile.
        """
        item = self.item(approval_id)
        if item is None or vote not in ("approve", "deny"):
            raise TapPassConfigError("there is no such approval, or that is no vote; nothing was changed")
        if item.hurdle:
            raise TapPassConfigError(item.hurdle)
        who = self.principal
        by = Approver(person_id=who.person_id, name=who.name, key_id=who.key_id)
        how = self.voting.approve if vote == "approve" else self.voting.deny
        # Forms send every line's end as two characters.
        how(approval_id, by, worded(reason.replace("\r\n", "\n"), "the reason"))


def hurdle(principal: Principal, held: Held) -> str:
    """Return why somebody cannot vote on an approval, "" if they can."""
    if not principal.may(APPROVER):
        return "You can read this. Voting takes an approver's key."
    if not principal.person_id:
        return "This key belongs to nobody by name, and every vote is a person's."
    if held.requested_by and held.requested_by == principal.name:
        return "You registered the agent that asks, and nobody approves their own request."
    if any(vote.by == principal.name for vote in held.votes):
        return "You have voted; each person counts once."
    return ""


def left(expires_at: str, now: datetime) -> str:
    """Return how long it is until then, in the unit that suits it."""
    seconds = max(0, int((datetime.fromisoformat(expires_at) - now).total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _line(line: Any) -> dict[str, Any]:
    return {**msgspec.structs.asdict(line), "tone": TONES.get(line.state, "plain")}


@get("/approvals", opt={"scope": PAGE}, include_in_schema=False)
async def inbox(request: AnyRequest) -> Response[bytes]:
    """Show what waits, and what was decided."""
    visitor, asked, house = await visitor_of(request), request.query_params, house_of(request)

    def told(principal: Principal) -> dict[str, Any]:
        after, before = (asked.get(name, "") for name in ("after", "before"))
        return Desk(house, principal).pages(*(each if each.isprintable() else "" for each in (after, before)))

    shown = await hop(told, visitor.principal)
    return page("approvals.html", visitor=visitor, refreshing="refresh" in asked, **shown)


@get("/approvals/{approval_id:str}", opt={"scope": PAGE}, include_in_schema=False)
async def approval(request: AnyRequest, approval_id: str) -> Response[bytes]:
    """Show one approval whole."""
    return await _show(request, await visitor_of(request), approval_id)


@post(
    "/approvals/{approval_id:str}/vote",
    opt={"scope": PAGE},
    include_in_schema=False,
    request_max_body_size=_LONGEST_FORM,
)
async def vote(request: AnyRequest, approval_id: str) -> Response[bytes]:
    """Take a vote; show what came of it."""
    visitor = await visitor_of(request)
    fields = await form(request, visitor)
    house, reason = house_of(request), fields.get("reason", "")

    def voted(principal: Principal) -> str:
        try:
            Desk(house, principal).vote(approval_id, fields.get("vote", ""), reason)
        except TapPassConfigError as error:
            return str(error)
        return ""

    if problem := await hop(voted, visitor.principal):
        return await _show(request, visitor, approval_id, problem, reason, status=409)
    return redirect(f"/approvals/{approval_id}")


async def _show(
    request: AnyRequest, visitor: Visitor, approval_id: str, problem: str = "", reason: str = "", status: int = 200
) -> Response[bytes]:
    house = house_of(request)
    item = await hop(lambda principal: Desk(house, principal).item(approval_id), visitor.principal)
    if item is None:
        heading, text = "No such approval", "There is no approval of that id that this key may see."
        return page("message.html", status=404, visitor=visitor, heading=heading, text=text, onward="")
    return page(
        "approval.html",
        status=status,
        visitor=visitor,
        tone=TONES.get(item.held.state, "plain"),
        problem=problem,
        reason=reason,
        item=item,
        held=item.held,
        rules=item.rules,
        hurdle=item.hurdle,
    )


HANDLERS = [inbox, approval, vote]
