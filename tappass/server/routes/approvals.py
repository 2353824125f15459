"""An agent's own approvals: what it waits for, how that stands, and taking it back."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
from litestar import Request, get, post
from litestar.params import Parameter

from tappass.engine.approvals import PENDING
from tappass.engine.credentials import AGENT, Principal
from tappass.engine.voting import Held
from tappass.errors import TapPassConfigError
from tappass.plane.embedded import EmbeddedPlane
from tappass.server.house import House
from tappass.server.placing import owned
from tappass.server.problems import Problem, responses
from tappass.server.waking import Bell, has_left
from tappass.server.working import work
from tappass.wire.service import ApprovalRow, Waiting
from tappass.wire.sessions import SessionRecord

LONGEST_S = 30.0
# What became of it, as the one who asked hears it.
_STATES = {"expired": "timed_out", "redeemed": "approved"}

Timeout = Annotated[float, Parameter(ge=0, le=LONGEST_S, description="How long to wait, in seconds.")]


@get("/v1/me/approvals", opt={"scope": AGENT}, tags=["approvals"])
async def list_approvals(principal: Principal, plane: EmbeddedPlane, pending: bool = False) -> list[ApprovalRow]:
    """List this key's approvals, the oldest first; `pending` leaves out what is decided."""

    def listed() -> list[ApprovalRow]:
        found = plane.engine.voting.of_agent(principal.agent_uuid, PENDING if pending else "")
        return [row_of(held, owned(plane.engine, principal, held.session_id).record) for held in found]

    return await work(listed)


@get("/v1/me/approvals/{approval_id:str}", opt={"scope": AGENT}, tags=["approvals"])
async def show_approval(approval_id: str, principal: Principal, plane: EmbeddedPlane) -> ApprovalRow:
    """Show one of this key's approvals."""
    return await work(own_row, plane, principal, approval_id)


@get(
    "/v1/me/approvals/{approval_id:str}/wait",
    opt={"scope": AGENT},
    responses=responses(408),
    tags=["approvals"],
)
async def wait_for_approval(
    approval_id: str,
    principal: Principal,
    plane: EmbeddedPlane,
    house: House,
    request: Request[Any, Any, Any],
    timeout_seconds: Timeout = LONGEST_S,
) -> ApprovalRow:
    """Wait until people have decided; 408 while they have not."""
    return await _decided(request, bell_of(request, house), plane, principal, approval_id, timeout_seconds)


@post("/v1/me/approvals/{approval_id:str}/cancel", status_code=200, opt={"scope": AGENT}, tags=["approvals"])
async def cancel_approval(approval_id: str, principal: Principal, plane: EmbeddedPlane) -> ApprovalRow:
    """Take a request back; one that is decided already stays as it is."""

    def cancelled() -> ApprovalRow:
        if own_row(plane, principal, approval_id).state == PENDING:
            plane.engine.voting.cancel(approval_id, principal.agent_uuid)
        return own_row(plane, principal, approval_id)

    return await work(cancelled)


@post("/v1/me/approvals/wait", status_code=200, opt={"scope": AGENT}, responses=responses(404, 408), tags=["approvals"])
async def wait_by_token(
    data: Waiting, principal: Principal, plane: EmbeddedPlane, house: House, request: Request[Any, Any, Any]
) -> ApprovalRow:
    """Wait by a resume token, which belongs in no url."""
    approval_id = await work(plane.engine.voting.approval_of, data.resume_token)
    timeout_s = min(max(data.timeout_seconds, 0.0), LONGEST_S)
    return await _decided(request, bell_of(request, house), plane, principal, approval_id, timeout_s)


async def _decided(
    request: Request[Any, Any, Any],
    bell: Bell,
    plane: EmbeddedPlane,
    principal: Principal,
    approval_id: str,
    timeout_s: float,
) -> ApprovalRow:
    with anyio.move_on_after(timeout_s):
        while True:
            rung = bell.listen()
            row = await work(own_row, plane, principal, approval_id)
            if row.state != PENDING:
                return row
            if await has_left(request, rung):
                break
    # Also where there was no time to look even once: whose approval it is, is always checked.
    row = await work(own_row, plane, principal, approval_id)
    if row.state == PENDING:
        raise Problem(408, f"approval `{approval_id}` is still pending; ask again", code="pending")
    return row


def bell_of(request: Request[Any, Any, Any], house: House) -> Bell:
    """Return the bell of this server, made at its first use."""
    state = request.app.state
    if (bell := state.get("bell")) is None:
        bell = state["bell"] = Bell(house.store)
    found: Bell = bell
    return found


def own_row(plane: EmbeddedPlane, principal: Principal, approval_id: str) -> ApprovalRow:
    """Return an approval that this key asked for.

    Raises:
        Problem: 404, the same whether there is none or it is another key's.
    """
    none = Problem(404, f"this key has no approval `{approval_id}`", code="not_found")
    try:
        held = plane.engine.voting.show(approval_id)
    except TapPassConfigError:
        raise none from None
    known = plane.engine.sessions.known(held.session_id)
    if known is None or known.record.agent_uuid != principal.agent_uuid:
        raise none
    return row_of(held, known.record)


def row_of(held: Held, record: SessionRecord) -> ApprovalRow:
    """Return an approval as the one who asked sees it."""
    return ApprovalRow(
        request_id=held.approval_id,
        state=_STATES.get(held.state, held.state),
        session_id=held.session_id,
        task_id=held.task_id,
        requested_at=held.requested_at,
        expires_at=held.expires_at,
        approval_url=f"{record.audit_url.rpartition('/sessions/')[0]}/approvals/{held.approval_id}",
        tool=str((held.action or {}).get("name", "")),
        message=held.message,
        approvers=held.approvers,
        approved_by=held.approved_by,
        decided_by=held.votes[-1].by if held.votes and held.decided_at else "",
        decided_at=held.decided_at,
        redeemed_at=held.redeemed_at,
    )


ROUTES = [cancel_approval, list_approvals, show_approval, wait_by_token, wait_for_approval]
