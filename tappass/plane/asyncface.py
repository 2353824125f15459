"""The remote plane as async callers see it, on asyncio and trio."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio
import httpx

from tappass.enforcement.action import WAIT
from tappass.enforcement.port import AsyncChunkSource
from tappass.engine.http_clients import pieces
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

_LOOK_S = 0.002


class AsyncFace:
    """The server, asked from the event loop."""

    def __init__(self, plane: RemotePlane) -> None:
        self._plane = plane
        self.url = plane.url
        self.abandon = plane.abandon
        self.scanner = plane.scanner

    async def open(self, opening: Opening) -> SessionRecord:
        """Open a session, durably; one that a cancelled caller never gets is closed again."""
        asked = self._plane.opening(opening)
        asking = exchange.open_session(asked)
        try:
            reply = await self._plane.aask(asking)
        except Exception:
            raise
        except BaseException:
            self._plane.closing(asked.id, "failed")
            self._plane.delivery.hurry()
            raise
        return self._plane.opened(exchange.session_of(reply, asking, self._plane.name, asked.id))

    async def decide(self, request: DecisionRequest) -> Decision:
        """Answer whether a call may run; the answer is durable before it is returned."""
        self._plane.admit(request.task_id)
        asking = exchange.govern(request)
        return exchange.answer(await self._plane.aask(asking), asking, request, self._plane.name)

    async def settle(self, ending: Ending) -> Settlement:
        """Close the record of a call; the server is only asked where it must see the result first."""
        if (known := unscanned(ending)) is not None:
            self._plane.record(ending)
            return known
        asking = exchange.scan(ending)
        try:
            return exchange.settlement(await self._plane.aask(asking), asking, self._plane.name)
        except BaseException:
            self._plane.withhold(ending)
            raise

    async def close(self, session_id: str, status: str) -> None:
        """Close a session, durably here; at once on the server, unless that is away."""
        number = self._plane.closing(session_id, status)
        if number:
            await self._delivered(number, CLOSE_S)

    async def resume(self, token: str) -> SessionRecord:
        """Reopen the session whose call an approval holds, durably."""
        # In its order: the close of that very session may still be on its way.
        await self._delivered(self._plane.outbox.last(), exchange.RESUME_S)
        asking = exchange.resume(token)
        return self._plane.opened(exchange.session_of(await self._plane.aask(asking), asking, self._plane.name))

    async def _delivered(self, number: int, timeout_s: float) -> bool:
        delivery = self._plane.delivery
        mark, until_s = delivery.hurry(), time.monotonic() + timeout_s
        while not delivery.is_through(number):
            if time.monotonic() > until_s or delivery.gave_up_since(mark):
                return False
            await anyio.sleep(_LOOK_S)
        return True

    async def stamp(self, session_id: str, audience: str, task_id: str = "") -> Stamp:
        """Return a token that places one receiver's calls in that session; it authenticates nobody."""
        asking = exchange.stamp(session_id, audience, task_id)
        return exchange.stamped(await self._plane.aask(asking), asking, self._plane.name)

    async def join(self, token: str, audience: str) -> SessionRecord:
        """Enter the session that a token names, as the receiver it was made for; it is never closed from here."""
        asking = exchange.join(token, audience)
        return exchange.session_of(await self._plane.aask(asking), asking, self._plane.name)

    async def wait(self, token: str, timeout_s: float) -> str:
        """Wait until people have decided on an approval, or for that long; return how it stands then."""
        patience = Patience(timeout_s)
        while True:
            asking = exchange.wait(token, patience.left_s())
            try:
                state = exchange.state(await self._plane.aask(asking), asking, self._plane.name)
            except TapPassConnectionError as error:
                await anyio.sleep(patience.after(error))
                continue
            if state != exchange.PENDING or patience.left_s() <= 0:
                return state
            patience.answered()

    async def chat(self, request: ChatRequest) -> ChatResponse:
        """Take one governed chat turn."""
        patience = Patience(request.approval_timeout_s)
        while True:
            self._plane.admit()
            asking = chatting.turn(request, stream=False)
            try:
                return chatting.response(await self._plane.aask(asking), asking, request, self._plane.name)
            except ApprovalRequired as held:
                if request.on_approval != WAIT or await self._gave_up(held, patience):
                    raise
                request = resumed(request, held)

    async def stream(self, request: ChatRequest) -> AsyncChunkSource:
        """Take one governed chat turn, streamed; it begins with the first chunk asked for."""
        return self._stream(request)

    async def _stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        patience = Patience(request.approval_timeout_s)
        while True:
            self._plane.admit()
            try:
                async with aclosing(self._chunks(request)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except ApprovalRequired as held:
                if request.on_approval != WAIT or await self._gave_up(held, patience):
                    raise
                request = resumed(request, held)

    async def _chunks(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        name, asking = self._plane.name, chatting.turn(request, stream=True)
        reading = chatting.ChunkReading(asking, request, name)
        await self._plane.ameet()
        try:
            response = await self._plane.connections.abegin(asking)
            try:
                if response.status_code != 200:
                    body = await response.aread()
                    reply = exchange.Reply(status=response.status_code, headers=response.headers, body=body)
                    raise exchange.refused(reply, asking, name)
                async with pieces(response) as read:
                    async for piece in read:
                        for chunk in reading.feed(piece):
                            yield chunk
                        if reading.done:
                            return
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        except httpx.TransportError:
            raise exchange.unreachable(asking, name) from None
        for chunk in reading.finish():
            yield chunk

    async def _gave_up(self, held: ApprovalRequired, patience: Patience) -> bool:
        if patience.left_s() <= 0:
            return True
        return await self.wait(held.resume_token, patience.left_s()) == exchange.PENDING
