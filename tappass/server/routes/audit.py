"""What outsiders check: the events of the log, where it stands, and the policy in force, both signed."""

from __future__ import annotations

import base64
from typing import Annotated

import msgspec
from litestar import MediaType, get
from litestar.params import Parameter

from tappass.engine.audit.checkpoint import Checkpointer, origin
from tappass.engine.credentials import ADMIN, AGENT, APPROVER, AUDITOR, Principal
from tappass.plane.embedded import EmbeddedPlane
from tappass.server import problems
from tappass.server.house import House
from tappass.server.problems import Problem
from tappass.server.working import work
from tappass.wire.codec import canonical
from tappass.wire.events import AuditEvent

# DSSE (Dead Simple Signing Envelope, v1): what is signed says what it is.
POLICY_TYPE = "application/vnd.tappass.policy+json"
_ANY = (ADMIN, AGENT, APPROVER, AUDITOR)

After = Annotated[int, Parameter(ge=-1, lt=2**40, description="The `seq` of the last event of the page before.")]
Limit = Annotated[int, Parameter(ge=1, le=1000, description="How many at most.")]
Only = Annotated[str, Parameter(max_length=200)]


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """Events in the order of the log; `next` is what to pass as `after`, null where the log ends for now."""

    events: list[AuditEvent]
    next: int | None


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """An Ed25519 signature, base64; `keyid` is the log's verifier key, as `tappass audit key` prints it."""

    keyid: str
    sig: str


class Envelope(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A signed document (DSSE): `payload` is base64."""

    payload_type: str
    payload: str
    signatures: tuple[Signature, ...]


@get("/v1/audit/events", opt={"scope": (ADMIN, AUDITOR)}, tags=["audit"])
async def list_events(
    principal: Principal,
    house: House,
    session_id: Only = "",
    task_id: Only = "",
    agent_uuid: Only = "",
    pipeline_uuid: Only = "",
    after: After = -1,
    limit: Limit = 200,
) -> AuditPage:
    """List the events of the key's organisation that match every filter given, a page at a time."""

    def page() -> AuditPage:
        found = house.store.scoped(principal.org_id).read.events(
            org_id=principal.org_id,
            session_id=session_id,
            task_id=task_id,
            agent_uuid=agent_uuid,
            pipeline_uuid=pipeline_uuid,
            after=after,
            limit=limit,
        )
        return AuditPage(events=found, next=found[-1].seq if len(found) == limit else None)

    return await work(page)


@get(
    "/v1/checkpoint", opt={"scope": _ANY}, media_type=MediaType.TEXT, responses=problems.responses(404), tags=["audit"]
)
async def show_checkpoint(principal: Principal, house: House) -> str:
    """Show where the organisation's log stands: a signed note (C2SP tlog-checkpoint), made now."""

    def note() -> str:
        store = house.store.scoped(principal.org_id)
        head = store.read.head(principal.org_id)
        if head is None:
            raise Problem(404, "this organisation's log has no event yet, so there is nothing to sign")
        return Checkpointer(store, house.log_key).write(head)

    return await work(note)


@get("/v1/bundle", opt={"scope": _ANY}, responses=problems.responses(404), tags=["audit"])
async def show_bundle(principal: Principal, house: House, plane: EmbeddedPlane) -> Envelope:
    """Show the policy in force in the key's project, signed by the key of the organisation's log."""

    def sealed() -> Envelope:
        pipeline = plane.pipelines.current()
        head = plane.engine.store.read.head(principal.org_id)
        if head is None:
            raise Problem(404, "this organisation has no accepted policy yet")
        payload = canonical(
            {
                "pipeline_uuid": pipeline.uuid,
                "org_id": principal.org_id,
                "project_id": principal.project_id,
                "accepted_by": pipeline.accepted_by,
                "accepted_at": pipeline.accepted_at,
                "policy": msgspec.Raw(pipeline.policy.bundle),
            }
        )
        signature = house.log_key.sign(encoded_before(POLICY_TYPE, payload))
        return Envelope(
            payload_type=POLICY_TYPE,
            payload=base64.b64encode(payload).decode(),
            signatures=(
                Signature(
                    keyid=str(house.log_key.public(origin(head.log_id))), sig=base64.b64encode(signature).decode()
                ),
            ),
        )

    return await work(sealed)


def encoded_before(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed of a document: DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


ROUTES = [list_events, show_bundle, show_checkpoint]
