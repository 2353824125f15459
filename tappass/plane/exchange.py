"""What is asked of a remote plane and how its answers are read: requests and replies, free of I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from tappass.enforcement.verdicts import printable
from tappass.errors import TapPassConfigError, TapPassConnectionError, TapPassError
from tappass.plane.refused import decision_in, detail_of, token_refusal_in
from tappass.wire.codec import decode, encode
from tappass.wire.correlation import Correlation
from tappass.wire.decisions import ALLOW, Decision, DecisionRequest
from tappass.wire.endings import Ending, Settlement
from tappass.wire.govern import GovernAnswer, decision_of, request_of
from tappass.wire.service import (
    OLDEST_SERVER,
    ApprovalRow,
    Health,
    Joining,
    Resumption,
    Stamp,
    Stamping,
    Waiting,
)
from tappass.wire.sessions import Opening, SessionRecord

T = TypeVar("T")

NOTHING_RAN = "nothing ran"
PENDING = "pending"
WAIT_S = 30.0
RESUME_S = 10.0


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `consequence` says, in an error, what its failure means; `read_s` how long to wait for an answer."""

    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    idempotent: bool = True
    consequence: str = NOTHING_RAN
    read_s: float = 0.0
    with_key: bool = True


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, read whole. The names in `headers` are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


# Asking.

HEALTH = Asking(method="GET", path="/health", with_key=False)


def open_session(opening: Opening) -> Asking:
    """Ask for a session; its id is the caller's, so that asking twice opens one."""
    return Asking(method="POST", path="/sessions", body=encode(opening), consequence="no session was opened")


def govern(request: DecisionRequest) -> Asking:
    """Ask whether a call may run; the plane knows a repeated question by its task id."""
    return Asking(method="POST", path="/v1/govern", body=encode(request_of(request)))


def scan(ending: Ending) -> Asking:
    """Show a result; the plane takes an ending once."""
    return Asking(
        method="POST",
        path=f"/v1/govern/{ending.task_id}/ending",
        body=encode(ending),
        consequence="the call ran, but its result could not be inspected, so it is withheld",
    )


def deliver(entries: bytes) -> Asking:
    """Hand over what waited in the outbox: a JSON array. Its sender has a patience of its own."""
    consequence = "endings wait in the outbox"
    return Asking(method="POST", path="/v1/endings", body=entries, idempotent=False, consequence=consequence)


def resume(token: str) -> Asking:
    """Ask to reopen the session whose call an approval holds."""
    body = encode(Resumption(resume_token=token))
    return Asking(method="POST", path="/sessions/resume", body=body, consequence="nothing was resumed")


def stamp(session_id: str, audience: str, task_id: str) -> Asking:
    """Ask for a token that places one receiver's calls in a session."""
    body = encode(Stamping(audience=audience, task_id=task_id))
    return Asking(method="POST", path=f"/sessions/{session_id}/stamp", body=body, consequence="nothing was stamped")


def join(token: str, audience: str) -> Asking:
    """Ask to enter the session that a token names."""
    body = encode(Joining(token=token, audience=audience))
    return Asking(method="POST", path="/sessions/join", body=body, consequence="no session was joined")


def wait(token: str, timeout_s: float) -> Asking:
    """Ask how an approval stands once people have decided, or after so many seconds."""
    asked_s = min(max(timeout_s, 0.0), WAIT_S)
    body = encode(Waiting(resume_token=token, timeout_seconds=asked_s))
    return Asking(method="POST", path="/v1/me/approvals/wait", body=body, read_s=asked_s + 15)


# Answers.


def read(reply: Reply, shape: type[T], asking: Asking, name: str) -> T:
    """Return what a reply holds.

    Raises:
        GovernanceDecision: the plane said no.
        TapPassConfigError: the request was refused for what it is.
        TapPassConnectionError: the plane is at fault, or its answer is in no shape that this version knows.
    """
    if not 200 <= reply.status < 300:
        raise refused(reply, asking, name)
    try:
        return decode(reply.body, shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise unreadable(asking, name) from None


def refused(reply: Reply, asking: Asking, name: str) -> TapPassError:
    """Return the error for an answer that is not 2xx."""
    status, detail = reply.status, detail_of(reply.body)
    if 300 <= status < 400:
        return _redirected(reply, name)
    if (decision := decision_in(reply.body)) is not None:
        return decision
    if (refusal := token_refusal_in(reply.body)) is not None:
        return refusal
    if status == 401:
        return TapPassConfigError(
            f"{name} does not accept this key; {asking.consequence}; check that it was issued there, and that it was "
            "neither revoked nor has expired"
        )
    if status == 429 or status >= 500:
        said = detail or f"{name} answered {status}"
        tail = "" if asking.consequence in said else f"; {asking.consequence}"
        return TapPassConnectionError(f"{said}{tail}" if detail else f"{said}{tail}; try again later")
    if status == 404 and not detail:
        return TapPassConfigError(
            f"{name} knows no {asking.path}; {asking.consequence}; check the url: it may lead to no control plane"
        )
    return TapPassConfigError(detail or f"{name} refused {asking.path} with {status}; {asking.consequence}")


def unreachable(asking: Asking, name: str) -> TapPassConnectionError:
    """Return the error for a request without an answer."""
    return TapPassConnectionError(
        f"the control plane at {name} does not answer; {asking.consequence}; check that it runs and can be reached"
    )


def unreadable(asking: Asking, name: str) -> TapPassConnectionError:
    """Return the error for an answer in an unknown shape."""
    return TapPassConnectionError(
        f"{name} answered {asking.path} in a shape that this version does not know; {asking.consequence}; "
        "upgrade tappass here, or check the url"
    )


def _redirected(reply: Reply, name: str) -> TapPassConfigError:
    from urllib.parse import urlsplit

    try:
        host = printable(urlsplit(reply.headers.get("location", "")).hostname or name)
    except ValueError:
        host = "another place"
    return TapPassConfigError(
        f"{name} redirects to {host}; a key is only sent to the url that it was given for, so nothing was sent there; "
        "set the url to where the control plane is"
    )


def check_version(reply: Reply, name: str) -> None:
    """Check that a server is not too old, from what its `/health` answers.

    Raises:
        TapPassConfigError: it is too old, or no control plane.
        TapPassConnectionError: it is not well.
    """
    needs = ".".join(map(str, OLDEST_SERVER))
    health = read(reply, Health, HEALTH, name)
    found = health.version.split(".")
    if len(found) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 6 for part in found):
        raise TapPassConfigError(
            f"{name} names no version that can be compared ({printable(health.version)}); nothing ran; "
            f"this client speaks to {needs} and later"
        )
    if tuple(map(int, found)) < OLDEST_SERVER:
        raise TapPassConfigError(
            f"the control plane at {name} is version {health.version}, and this client needs {needs} or later; "
            "nothing ran; upgrade the server"
        )


def session_of(reply: Reply, asking: Asking, name: str, session_id: str = "") -> SessionRecord:
    """Return the session that was opened."""
    record = read(reply, SessionRecord, asking, name)
    if session_id and record.session_id != session_id:
        raise unreadable(asking, name)
    return record


class UnknownObligation(msgspec.Struct, frozen=True):
    """What a later plane may oblige to; it blocks the call."""

    unknown_kind: str


class _Loose(msgspec.Struct, frozen=True, kw_only=True):
    outcome: str
    session_id: str
    task_id: str
    agent_uuid: str
    pipeline_uuid: str
    audit_url: str
    reason: str = ""
    obligations: tuple[dict[str, Any], ...] = ()
    error: dict[str, Any] | None = None


def answer(reply: Reply, asking: Asking, asked: DecisionRequest, name: str) -> Decision:
    """Return the decision in a reply: one about another call is none, one that this version cannot read blocks."""
    if not 200 <= reply.status < 300:
        raise refused(reply, asking, name)
    try:
        decision = decision_of(_answer.decode(reply.body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        decision = _blocking(read(reply, _Loose, asking, name))
    ids = decision.correlation
    if (ids.task_id, ids.session_id) != (asked.task_id, asked.session_id):
        raise unreadable(asking, name)
    return decision


_answer = msgspec.json.Decoder(GovernAnswer)


def _blocking(loose: _Loose) -> Decision:
    """Return a decision that can only block, from an answer that says more than this version knows."""
    ids = Correlation.of(loose)
    kinds = [str(obligation.get("kind", "")) for obligation in loose.obligations]
    unknown: Any = tuple(map(UnknownObligation, kinds or ("of this answer",)))
    reason = loose.reason or "was answered in a shape that this version does not know; upgrade tappass"
    if loose.outcome == ALLOW and loose.error is not None:
        return Decision(outcome="unknown", correlation=ids, reason=reason)
    return Decision(outcome=loose.outcome, correlation=ids, reason=loose.reason, obligations=unknown)


def stamped(reply: Reply, asking: Asking, name: str) -> Stamp:
    """Return the token that was minted."""
    return read(reply, Stamp, asking, name)


def settlement(reply: Reply, asking: Asking, name: str) -> Settlement:
    """Return what the plane says of a result."""
    return read(reply, Settlement, asking, name)


def state(reply: Reply, asking: Asking, name: str) -> str:
    """Return how an approval stands."""
    if reply.status == 408:
        return PENDING
    row = read(reply, ApprovalRow, asking, name)
    return "expired" if row.state == "timed_out" else row.state
