"""The gateway: one more enforcement point around one more call, the upstream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, cast

from tappass.enforcement.drivers import adrive, astreaming, drive, streaming
from tappass.enforcement.effects import Flow
from tappass.enforcement.flow import enforce, enforce_stream
from tappass.enforcement.port import AsyncControlPlane, ControlPlane
from tappass.engine import local_model
from tappass.engine.answers import Answer
from tappass.engine.turns import AsyncTurn, Turn
from tappass.engine.upstream import Upstreams, UpstreamSettings
from tappass.wire.chat import ChatChunk, ChatRequest, ChatResponse

if TYPE_CHECKING:
    from tappass.engine.engine import Engine


class Gateway:
    """Takes chat turns: decided before the upstream is asked, redacted before anybody sees the answer, settled after.

    All messages are inspected, the tools offered and the tool calls asked for as well.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: tuple[tuple[UpstreamSettings, ...], Upstreams] | None = None

    def chat(self, request: ChatRequest) -> ChatResponse:
        """Take one turn.

        Raises:
            GovernanceDecision: it was refused, or its answer may not be seen.
            TapPassConnectionError: it could not be recorded, or the upstream did not answer as it should.
            TapPassConfigError: no upstream serves the model, or the request asks for what is not governed.
        """
        turn = Turn(self._engine, request, self._complete)
        return turn.response(drive(_told(turn, enforce(turn.call)), cast(ControlPlane, turn), turn.call))

    async def achat(self, request: ChatRequest, note: Callable[[Turn], object] = bool) -> ChatResponse:
        """Take one turn; raises as `chat` does. `note` is given the turn before it begins."""
        turn = Turn(self._engine, request, self._acomplete)
        note(turn)
        face = cast(AsyncControlPlane, AsyncTurn(turn))
        return turn.response(await adrive(_told(turn, enforce(turn.call)), face, turn.call))

    def stream(self, request: ChatRequest) -> Generator[ChatChunk, None, None]:
        """Take one turn, its answer in pieces; it begins with the first piece asked for. Raises as `chat` does."""

        def begin(args: Any, kwargs: Any) -> tuple[Flow[Any], ControlPlane, Any]:
            turn = Turn(self._engine, request, self._stream)
            return _told(turn, enforce_stream(turn.call)), cast(ControlPlane, turn), turn.call

        return streaming(begin)()

    def astream(self, request: ChatRequest, note: Callable[[Turn], object] = bool) -> AsyncGenerator[ChatChunk, None]:
        """Take one turn, its answer in pieces; it begins with the first piece asked for. Raises as `chat` does."""

        async def begin(args: Any, kwargs: Any) -> tuple[Flow[Any], AsyncControlPlane, Any]:
            turn = Turn(self._engine, request, self._astream)
            note(turn)
            return _told(turn, enforce_stream(turn.call)), cast(AsyncControlPlane, AsyncTurn(turn)), turn.call

        return astreaming(begin)()

    def _complete(self, turn: Turn, request: ChatRequest) -> Answer:
        return turn.heard(self._upstreams(turn).complete(request))

    async def _acomplete(self, turn: Turn, request: ChatRequest) -> Answer:
        return turn.heard(await self._upstreams(turn).acomplete(request))

    def _stream(self, turn: Turn, request: ChatRequest) -> Generator[ChatChunk, None, None]:
        with closing(self._upstreams(turn).stream(request)) as chunks:
            for chunk in chunks:
                yield from turn.passed(chunk)
            yield from turn.rest()

    async def _astream(self, turn: Turn, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        async with aclosing(self._upstreams(turn).astream(request)) as chunks:
            async for chunk in chunks:
                for passed in turn.passed(chunk):
                    yield passed
            for passed in turn.rest():
                yield passed

    def _upstreams(self, turn: Turn) -> Upstreams:
        """Return the upstreams of the settings that the turn's session is under."""
        settings = tuple(turn.opened.pipeline.settings.upstreams)
        known = self._known
        if known is None or known[0] != settings:
            known = self._known = (settings, Upstreams(settings, local_model.shared()))
        return known[1]


def _told(turn: Turn, flow: Flow[Any]) -> Flow[Any]:
    with turn.telling():
        return (yield from flow)
