"""The port: everything the enforcement path asks of a control plane."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from tappass.wire.chat import ChatChunk, ChatRequest, ChatResponse
from tappass.wire.decisions import Decision, DecisionRequest
from tappass.wire.endings import Ending, Settlement
from tappass.wire.findings import Finding, Redaction
from tappass.wire.obligations import ScanResult
from tappass.wire.service import Stamp
from tappass.wire.sessions import Opening, SessionRecord


class Scanner(Protocol):
    """Reads a streamed result as it comes: text piece by piece (see `redaction.StreamRedactor`), other items whole."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far; positions count from the start of the stream."""
        ...

    @property
    def redactions(self) -> tuple[Redaction, ...]:
        """What was replaced so far."""
        ...

    @property
    def shown(self) -> int:
        """Up to where the text is shown, in code points from the start of the stream."""
        ...

    def feed(self, text: str) -> str:
        """Take the next piece, return what is safe to show.

        Raises:
            PolicyBlockError: the stream holds something that must not be shown at all.
        """
        ...

    def finish(self) -> str:
        """Return what was held back, redacted; the next text starts anew."""
        ...

    def inspect(self, value: Any, *, opaque: bool) -> Settlement:
        """Say what is to be replaced in one item that is not text, or that it is withheld."""
        ...


class ChunkSource(Protocol):
    """A streamed answer, already governed."""

    def __iter__(self) -> Iterator[ChatChunk]: ...

    def close(self) -> None:
        """End it early; its call settles as abandoned."""
        ...


class AsyncChunkSource(Protocol):
    """A streamed answer, already governed, for async callers."""

    def __aiter__(self) -> AsyncIterator[ChatChunk]: ...

    async def aclose(self) -> None:
        """End it early; its call settles as abandoned."""
        ...


class ControlPlane(Protocol):
    """What a plane answers to sync callers. Every method raises TapPassConnectionError if it cannot be recorded."""

    @property
    def url(self) -> str:
        """The plane's name: equal urls are the same plane."""
        ...

    def open(self, opening: Opening) -> SessionRecord:
        """Open a session, durably."""
        ...

    def decide(self, request: DecisionRequest) -> Decision:
        """Answer whether a call may run; the answer is durable before it is returned."""
        ...

    def settle(self, ending: Ending) -> Settlement:
        """Close the record of a call and inspect its result; the record follows within 50 ms."""
        ...

    def abandon(self, ending: Ending) -> None:
        """Queue an ending from a finaliser: takes no lock, raises nothing."""
        ...

    def close(self, session_id: str, status: str) -> None:
        """Close a session as completed, failed or suspended, durably."""
        ...

    def resume(self, token: str) -> SessionRecord:
        """Reopen the session whose call an approval holds, durably."""
        ...

    def wait(self, token: str, timeout_s: float) -> str:
        """Wait until people have decided on an approval, or for that long; return how it stands then."""
        ...

    def stamp(self, session_id: str, audience: str, task_id: str = "") -> Stamp:
        """Return a token that places one receiver's calls in that session; it authenticates nobody."""
        ...

    def join(self, token: str, audience: str) -> SessionRecord:
        """Open a session beneath the one that a token names, as the receiver it was made for."""
        ...

    def scanner(self, scan: ScanResult, session_id: str) -> Scanner:
        """Return a reader for one streamed result of a call in that session."""
        ...

    def chat(self, request: ChatRequest) -> ChatResponse:
        """Take one governed chat turn."""
        ...

    def stream(self, request: ChatRequest) -> ChunkSource:
        """Take one governed chat turn, streamed."""
        ...


class AsyncControlPlane(Protocol):
    """The same for async callers: the same names, awaited (`scanner` and `abandon` do no I/O)."""

    @property
    def url(self) -> str:
        """The plane's name: equal urls are the same plane."""
        ...

    async def open(self, opening: Opening) -> SessionRecord:
        """Open a session, durably."""
        ...

    async def decide(self, request: DecisionRequest) -> Decision:
        """Answer whether a call may run; the answer is durable before it is returned."""
        ...

    async def settle(self, ending: Ending) -> Settlement:
        """Close the record of a call and inspect its result."""
        ...

    def abandon(self, ending: Ending) -> None:
        """Queue an ending from a finaliser: takes no lock, raises nothing."""
        ...

    async def close(self, session_id: str, status: str) -> None:
        """Close a session, durably."""
        ...

    async def resume(self, token: str) -> SessionRecord:
        """Reopen the session whose call an approval holds, durably."""
        ...

    async def wait(self, token: str, timeout_s: float) -> str:
        """Wait until people have decided on an approval, or for that long; return how it stands then."""
        ...

    async def stamp(self, session_id: str, audience: str, task_id: str = "") -> Stamp:
        """Return a token that places one receiver's calls in that session; it authenticates nobody."""
        ...

    async def join(self, token: str, audience: str) -> SessionRecord:
        """Open a session beneath the one that a token names, as the receiver it was made for."""
        ...

    def scanner(self, scan: ScanResult, session_id: str) -> Scanner:
        """Return a reader for one streamed result of a call in that session."""
        ...

    async def chat(self, request: ChatRequest) -> ChatResponse:
        """Take one governed chat turn."""
        ...

    async def stream(self, request: ChatRequest) -> AsyncChunkSource:
        """Take one governed chat turn, streamed."""
        ...


class Plane(Protocol):
    """Both faces of one control plane."""

    @property
    def sync(self) -> ControlPlane:
        """The face for sync callers."""
        ...

    @property
    def aio(self) -> AsyncControlPlane:
        """The face for async callers."""
        ...

    def shutdown(self) -> Any:
        """Write out what waits, sign a checkpoint, let go of connections."""
        ...
