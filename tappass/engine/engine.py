"""The engine's use cases: open, decide, settle, close; sync, written once, for every plane.

A shared engine is one of several over one database, on the same server or on others: it believes the database, not its
memory. An embedded one knows its own sessions and running calls and asks for neither.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec
from msgspec import UNSET

from tappass.enforcement.port import Scanner
from tappass.engine import inspection
from tappass.engine.budgets import Budgets
from tappass.engine.controls import Controls, read_controls
from tappass.engine.delivered import Deliveries, bounded
from tappass.engine.endings import LOST, Endings, counted, inspected
from tappass.engine.gate import Gate
from tappass.engine.implicit import ImplicitSessions
from tappass.engine.issuer import Issuer
from tappass.engine.judgement import Judgement, judge, kept, tag_of
from tappass.engine.leaves import Leaves
from tappass.engine.pipelines import Pipelines
from tappass.engine.recalled import Open
from tappass.engine.replaying import Asked, Replays
from tappass.engine.reports import Reports
from tappass.engine.sessions import ClosedError, ReopenedError, Sessions, not_open
from tappass.engine.signing_keys import SigningKeys
from tappass.engine.steps import Steps, Write, carried_out
from tappass.engine.store.port import Store, Tx
from tappass.engine.voting import Voting
from tappass.errors import TapPassConfigError
from tappass.wire.codec import canonical
from tappass.wire.decisions import ALLOW, Decision, DecisionRequest
from tappass.wire.endings import Ending, Settlement
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock, Ids
from tappass.wire.obligations import ScanResult
from tappass.wire.service import Entry, Receipt, Report
from tappass.wire.sessions import Opening, SessionRecord

_DEFINED = (
    "INSERT INTO tool_definition (org_id, project_id, digest, server, name, definition, first_seen_at, first_seen_seq)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)


# Tool definitions that this process knows to be in the database.
_MOST_DEFINED = 10_000


class Engine:
    """Answers for one project: which session, which policy, what was seen, and the record of it all.

    Args:
        store: the database.
        pipelines: which policy is in force.
        leaves: how things are put into the log.
        voting: what people decide.
        first, gates: what has a say before budgets, and after them.
        key: returns the key under which requests are compared; kept outside the log.
        shared: other engines serve the same sessions.
    """

    def __init__(
        self,
        store: Store,
        pipelines: Pipelines,
        leaves: Leaves,
        voting: Voting,
        *,
        first: Iterable[Gate] = (),
        gates: Iterable[Gate] = (),
        issuer: Issuer | None = None,
        clock: Clock = SYSTEM_CLOCK,
        ids: Ids = UUID_IDS,
        key: Callable[[], bytes] | None = None,
        shared: bool = False,
    ) -> None:
        self.store = store
        self.pipelines = pipelines
        self.leaves = leaves
        self.voting = voting
        self.issuer = issuer or Issuer(store, leaves, SigningKeys(store, leaves, None, clock), clock=clock, ids=ids)
        self._clock = clock
        self._shared = shared
        self.sessions = Sessions(store, pipelines, leaves, clock, ids, shared=shared)
        self._defined: set[str] = set()
        self._controls = Controls()
        self.budgets = Budgets(leaves, clock)
        self._endings = Endings(store, leaves, self.budgets, shared=shared)
        # Without a key to share, requests are only recognised by this process.
        self._replays = Replays(leaves, key or (lambda: os.urandom(32)), clock)
        self._deliveries = Deliveries(store, leaves, self.sessions, self._endings, self._replays)
        self._reports = Reports(store, pipelines, leaves, self.sessions, self._replays)
        self._implicit = ImplicitSessions(self.sessions, pipelines, leaves, clock)
        # What cannot be paid for need not be asked of people, nor use up their yes.
        self._gates: tuple[Gate, ...] = (*first, self.budgets, *gates)

    def open(self, opening: Opening, agent_uuid: str = "", *, joined: bool = False) -> SessionRecord:
        """Open a session, durably; see `Sessions.open`.

        Args:
            opening: what is asked for.
            agent_uuid: the registered agent whose key was shown; "" where code may name its agent itself.
            joined: a token was shown for the session around it, which may be another agent's.
        """
        return self.sessions.open(opening, agent_uuid, joined=joined).record

    def own(self, session_id: str, agent_uuid: str, *, closed: bool = False) -> Open:
        """Return a session of the agent whose key was shown.

        Raises:
            TapPassConfigError: it is unknown, another agent's, or closed unless `closed` lets that be; nobody learns
                which.
        """
        opened = self.sessions.known(session_id) if closed else self.sessions.find(session_id)
        if opened is None or opened.record.agent_uuid != agent_uuid:
            raise not_open(session_id)
        return opened

    def implicit_session(self, agent_uuid: str) -> SessionRecord:
        """Return the session of today in which the calls of an agent belong that name none, opened if need be."""
        return self._implicit.of(agent_uuid).record

    def remembered(self, session_id: str, agent_uuid: str) -> Open | None:
        """Return an agent's own session, "" for its implicit one, if this process has it open; asks nobody."""
        kept = self.sessions.kept_open(session_id) if session_id else self._implicit.kept(agent_uuid)
        return kept if kept is not None and kept.record.agent_uuid == agent_uuid else None

    def close(self, session_id: str, status: str, openings: int = 0) -> bool:
        """Close a session, durably; tell whether that was still to be done. See `Sessions.close`."""
        return self.sessions.close(session_id, status, openings)

    def decide(self, request: DecisionRequest) -> Decision:
        """Answer whether a call may run; the answer is in the log before it is returned.

        Raises:
            TapPassConnectionError: it cannot be recorded.
            TapPassConfigError: the session is not open here.
        """
        return carried_out(self.store, self._answer(request, None))

    def govern(self, question: DecisionRequest, *, credential: str) -> Decision:
        """Answer as `decide` does, and the same question of the same credential with the same answer for a day.

        One that waits for people is decided again. Two at once are decided once.

        Raises:
            RequestConflict: another call was decided under this task_id.
            TapPassConnectionError: it cannot be recorded.
            TapPassConfigError: the session is not open.
        """
        return carried_out(self.store, self.governing(question, credential=credential))

    def governing(self, question: DecisionRequest, *, credential: str) -> Steps[Decision]:
        """Return `govern` in steps; up to its first, it asks the database nothing if its session is remembered."""
        return self._answer(question, self._replays.asked(question, credential))

    def _answer(self, request: DecisionRequest, asked: Asked | None) -> Steps[Decision]:
        while True:
            opened = self.sessions.find(request.session_id)
            judged = judge(opened, request, self._controls, self._clock.time_ns())
            try:
                done = yield self._deciding(judged, asked)
            except ReopenedError:
                continue
            except ClosedError:
                if self._shared or not request.resume_token:
                    raise not_open(request.session_id) from None
                # Whoever resumes a call has opened its session too: another process's close was for its own part.
                self.sessions.reopen(request.session_id)
                continue
            if isinstance(done, Decision):
                return done
            return self._decided(request, done)

    def _deciding(self, judged: Judgement, asked: Asked | None) -> Write:
        """Return what decides a call in a transaction: the final judgement comes of it, or the answer of before."""
        opened, request = judged.opened, judged.request
        alone = not (self._shared or opened.recalled)
        if self._shared:
            # Not while others wait for the log.
            judged.body = _body(judged)

        def write(tx: Tx) -> Judgement | Decision:
            if not alone:
                self.sessions.check(tx, opened)
            if asked is not None and (before := self._replays.recall(tx, asked)) is not None:
                return before
            final = self._final(tx, judged)
            if self._shared and final.outcome == ALLOW:
                self._endings.begin(tx, request)
            if asked is not None:
                self._replays.keep(tx, asked, final.decision())
            return final

        ahead = [] if alone else [self.sessions.ask(opened)]
        if asked is not None:
            ahead.append(self._replays.ask(asked))
        if self._shared:
            ahead += chain.from_iterable([gate.asks(judged) for gate in self._gates])
        return Write(write, ahead)

    def _decided(self, request: DecisionRequest, done: Judgement) -> Decision:
        decision = done.decision()
        if decision.outcome == ALLOW and not self._shared:
            self._endings.running[request.task_id] = request.session_id
        if len(self._defined) > _MOST_DEFINED:
            self._defined.clear()
        self._defined.add(request.action.definition_digest)
        return decision

    def _final(self, tx: Tx, judged: Judgement) -> Judgement:
        """Return a judgement as it stands in this transaction, recorded."""
        final, opened, request = judged, judged.opened, judged.request
        changed = tx.control(self.leaves.org_id) != judged.controls.number
        if changed:
            # People have changed something since: judge again by what is in force in this transaction.
            self._controls = read_controls(tx, self.leaves.org_id, self.leaves.project_id)
        if (spent := self.budgets.facts(tx, judged)) or changed:
            final = judge(opened, request, self._controls, self._clock.time_ns(), spent)
        for gate in self._gates:
            gate.check(tx, final)
        final.oblige()
        self.budgets.spend(tx, final)
        self._record(tx, final)
        return final

    def _record(self, tx: Tx, judged: Judgement) -> None:
        opened, request = judged.opened, judged.request
        action, outcome = request.action, judged.outcome
        event = msgspec.structs.replace(
            opened.leaf,
            type="call.decided",
            at=self.leaves.now(),
            task_id=request.task_id,
            kind=action.kind,
            name=action.name,
            server=action.server,
            definition=action.definition_digest,
            outcome=outcome,
            would_be=judged.would_be,
            tier=judged.tier,
            classification=judged.verdict.classification,
            blocked_by=judged.blocked_by,
            rules=tuple([match.id for match in judged.verdict.matches]),
            obligations=tuple([tag_of(obligation) for obligation in judged.obligations]),
            findings=counted(judged.findings),
            approval_id=judged.approval_id,
            budgets=judged.budgets,
            traceparent=request.traceparent,
        )
        written = tx.append(event, _body(judged) if judged.body is UNSET else judged.body)
        judged.decided_at = written.at
        if (define := self._definition(request)) is not None:
            tx.execute(_DEFINED, (*define, written.at, written.seq))

    def _definition(self, request: DecisionRequest) -> tuple[Any, ...] | None:
        """Return the row of a tool definition that was not seen before."""
        definition, digest = request.definition, request.action.definition_digest
        if definition is None or digest in self._defined:
            return None
        keys = (self.leaves.org_id, self.leaves.project_id, digest)
        return (*keys, definition.server, definition.name, canonical(definition))

    def settle(self, ending: Ending, *, durable: bool = False) -> Settlement:
        """Inspect a result and close the call's record, which is written within 50 ms, or before this returns.

        An ending for a call that was never allowed, or has ended already, leaves nothing in the log.

        Raises:
            TapPassConfigError: it is malformed; only what came over the wire can be.
            TapPassConnectionError: it cannot be recorded, and is to be before this returns.
        """
        sound = bounded(ending) if self._shared else ending
        if sound is None:
            raise TapPassConfigError("this is no ending of a call: its status or task_id is not one; nothing recorded")
        opened = self.sessions.known(sound.session_id)
        if opened is None:
            return LOST if sound.scan is not None else Settlement()
        settlement = inspected(opened, sound)
        self._endings.record(opened, sound, settlement, durable=durable)
        return settlement

    def settle_all(self, entries: Sequence[Entry], *, agent_uuid: str = "") -> Receipt:
        """Record a batch of endings and closes in its order, durably, each once. See `Deliveries`.

        Raises:
            TapPassConnectionError: it cannot be recorded; none of it was.
        """
        return self._deliveries.take(entries, agent_uuid)

    def report(self, reports: Sequence[Report], *, agent_uuid: str, key: str = "") -> Receipt:
        """Record what an agent reports of itself, durably, and the same batch under the same key once.

        Raises:
            TapPassConfigError: a report is malformed, or is not this agent's; none was recorded.
            TapPassConnectionError: it cannot be recorded; none of it was.
        """
        return self._reports.take(reports, agent_uuid, key)

    def sweep(self, most: int = 1000) -> int:
        """Forget answers of more than a day ago, so many at most, and expire approvals; return how many it forgot."""
        self.voting.sweep()
        return self.store.run(lambda tx: self._replays.sweep(tx, most))

    def scanner(self, scan: ScanResult, session_id: str) -> Scanner:
        """Return a reader for one streamed result of a call in that session."""
        return inspection.scanner(scan)

    def abandon(self, ending: Ending) -> None:
        """Queue an ending from a finaliser; an unknown session leaves the call unsettled, which the log shows."""
        if (opened := self.sessions.kept(ending.session_id)) is not None:
            self._endings.record(opened, ending, Settlement(findings=ending.findings))


def _body(judged: Judgement) -> bytes | None:
    """Return what is stored beside a decision: the arguments, as the settings say."""
    action = judged.request.action
    told = {"arguments": kept(action, judged.findings), "types": action.types}
    settings = judged.opened.pipeline.settings
    return inspection.stored(settings, told, judged.findings, "/arguments", read=judged.read)
