"""The remote plane as sync callers see it."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING

import httpx

from tappass.enforcement.action import WAIT
from tappass.enforcement.port import ChunkSource
from tappass.errors import ApprovalRequired, TapPassConnectionError
from tappass.plane import chatting, exchange
from tappass.plane.delivery import CLOSE_S
from tappass.plane.patience import Patience, resumed, unscanned
from tappass.wire.chat import ChatChunk, ChatRequest, ChatResponse
from tappass.wire.decisions import Decision, DecisionRequest
from tappass.wire.endings import Ending, Settlement
from tappass.wire.service import Stamp
from tappass.wire.sessions import Opening, SessionRecord

if TYPE_CHECKING:
    from tappass.plane.remote import RemotePlane


class SyncFace:
    """The server, asked on the caller's thread."""

    def __init__(self, plane: RemotePlane) -> None:
        self._plane = plane
        self.url = plane.url
        self.abandon = plane.abandon
        self.scanner = plane.scanner

    def open(self, opening: Opening) -> SessionRecord:
        """Open a session, durably."""
        asked = self._plane.opening(opening)
        asking = exchange.open_session(asked)
        return self._plane.opened(exchange.session_of(self._plane.ask(asking), asking, self._plane.name, asked.id))

    def decide(self, request: DecisionRequest) -> Decision:
        """Answer whether a call may run; the answer is durable before it is returned."""
        self._plane.admit(request.task_id)
        asking = exchange.govern(request)
        return exchange.answer(self._plane.ask(asking), asking, request, self._plane.name)

    def settle(self, ending: Ending) -> Settlement:
        """Close the record of a call; the server is only asked where it must see the result first."""
        if (known := unscanned(ending)) is not None:
            self._plane.record(ending)
            return known
        asking = exchange.scan(ending)
        try:
            return exchange.settlement(self._plane.ask(asking), asking, self._plane.name)
        except BaseException:
            self._plane.withhold(ending)
            raise

    def close(self, session_id: str, status: str) -> None:
        """Close a session, durably here; at once on the server, unless that is away."""
        number = self._plane.closing(session_id, status)
        if number:
            self._plane.delivery.wait_for(number, CLOSE_S)

    def resume(self, token: str) -> SessionRecord:
        """Reopen the session whose call an approval holds, durably."""
        # In its order: the close of that very session may still be on its way.
        self._plane.delivery.wait_for(self._plane.outbox.last(), exchange.RESUME_S)
        asking = exchange.resume(token)
        return self._plane.opened(exchange.session_of(self._plane.ask(asking), asking, self._plane.name))

    def stamp(self, session_id: str, audience: str, task_id: str = "") -> Stamp:
        """Return a token that places one receiver's calls in that session; it authenticates nobody."""
        asking = exchange.stamp(session_id, audience, task_id)
        return exchange.stamped(self._plane.ask(asking), asking, self._plane.name)

    def join(self, token: str, audience: str) -> SessionRecord:
        """Enter the session that a token names, as the receiver it was made for; it is never closed from here."""
        asking = exchange.join(token, audience)
        return exchange.session_of(self._plane.ask(asking), asking, self._plane.name)

    def wait(self, token: str, timeout_s: float) -> str:
        """Wait until people have decided on an approval, or for that long; return how it stands then."""
        patience = Patience(timeout_s)
        while True:
            asking = exchange.wait(token, patience.left_s())
            try:
                state = exchange.state(self._plane.ask(asking), asking, self._plane.name)
            except TapPassConnectionError as error:
                time.sleep(patience.after(error))
                continue
            if state != exchange.PENDING or patience.left_s() <= 0:
                return state
            patience.answered()

    def chat(self, request: ChatRequest) -> ChatResponse:
        """Take one governed chat turn."""
        patience = Patience(request.approval_timeout_s)
        while True:
            self._plane.admit()
            asking = chatting.turn(request, stream=False)
            try:
                return chatting.response(self._plane.ask(asking), asking, request, self._plane.name)
            except ApprovalRequired as held:
                if request.on_approval != WAIT or self._gave_up(held, patience):
                    raise
                request = resumed(request, held)

    def stream(self, request: ChatRequest) -> ChunkSource:
        """Take one governed chat turn, streamed; it begins with the first chunk asked for."""
        return self._stream(request)

    def _stream(self, request: ChatRequest) -> Generator[ChatChunk, None, None]:
        patience = Patience(request.approval_timeout_s)
        while True:
            self._plane.admit()
            try:
                yield from self._chunks(request)
                return
            except ApprovalRequired as held:
                if request.on_approval != WAIT or self._gave_up(held, patience):
                    raise
                request = resumed(request, held)

    def _chunks(self, request: ChatRequest) -> Generator[ChatChunk, None, None]:
        name, asking = self._plane.name, chatting.turn(request, stream=True)
        reading = chatting.ChunkReading(asking, request, name)
        self._plane.meet()
        try:
            response = self._plane.connections.begin(asking)
            try:
                if response.status_code != 200:
                    raise exchange.refused(_whole(response, response.read()), asking, name)
                for piece in response.iter_bytes():
                    yield from reading.feed(piece)
                    if reading.done:
                        return
            finally:
                response.close()
        except httpx.TransportError:
            raise exchange.unreachable(asking, name) from None
        yield from reading.finish()

    def _gave_up(self, held: ApprovalRequired, patience: Patience) -> bool:
        return patience.left_s() <= 0 or self.wait(held.resume_token, patience.left_s()) == exchange.PENDING


def _whole(response: httpx.Response, body: bytes) -> exchange.Reply:
    return exchange.Reply(status=response.status_code, headers=response.headers, body=body)
