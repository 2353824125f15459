"""Agent, AsyncAgent: governed chat with a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from tappass.enforcement.latch import latch_key
from tappass.enforcement.projection import Unprojectable, project
from tappass.errors import BreakGlassActive, GovernanceDecision, RedactionApplied, TapPassConfigError
from tappass.placing import aplace, place
from tappass.session.context import current_session
from tappass.session.session import Session
from tappass.streams import AsyncChatStream, ChatStream
from tappass.wire.chat import ChatRequest, ChatResponse
from tappass.wire.codec import canonical
from tappass.wire.ids import UUID_IDS
from tappass.wire.refusals import BreakGlass

if TYPE_CHECKING:
    from tappass.enforcement.port import AsyncChunkSource, ChunkSource

Prompt: TypeAlias = str | Iterable[Any]
"""Text, or OpenAI-style messages."""

G = TypeVar("G", bound="Agent")
A = TypeVar("A", bound="AsyncAgent")

DEFAULT_MODEL = "gpt-4o-mini"


class _Where:
    """The plane an agent insists on, if any."""

    def __init__(self, url: str | None, api_key: str | None) -> None:
        self.url = url
        self.api_key = api_key


class _Turn:
    """One turn before it has a session: what is asked, in JSON types."""

    def __init__(
        self, fields: dict[str, Any], respect_breakglass: bool | None, raise_on_redaction: bool | None
    ) -> None:
        self.fields = fields
        self.respect_breakglass = respect_breakglass
        self.raise_on_redaction = raise_on_redaction

    def request(self, session: Session) -> ChatRequest:
        """Return the request in a session.

        Raises:
            GovernanceDecision: this very turn was refused in this session before.
        """
        if session.latch and (known := session.latch.find(self._key(session))) is not None:
            raise known
        return ChatRequest(
            session_id=session.session_id,
            task_id=UUID_IDS.new("tsk"),
            respect_breakglass=_inner(self.respect_breakglass, session.respect_breakglass),
            raise_on_redaction=_inner(self.raise_on_redaction, session.raise_on_redaction),
            resume_token=session.resume_token,
            on_approval=session.on_approval,
            approval_timeout_s=session.approval_timeout_s,
            **self.fields,
        )

    def refused(self, session: Session, error: GovernanceDecision) -> None:
        """Latch a refusal on the session; of an answer that may not be seen, the next may be another."""
        if isinstance(error, BreakGlassActive):
            session.note_break_glass(BreakGlass(level=error.level, expires_at=error.expires_at))
        if session.latch is not None and not error.ran and not isinstance(error, RedactionApplied):
            session.latch.keep(self._key(session), error)

    def _key(self, session: Session) -> bytes:
        return latch_key(b"llm" + canonical(self.fields), session.pipeline_uuid)


class _Governed:
    """What both agents are made of."""

    def __init__(
        self,
        url: str | None,
        api_key: str | None,
        model: str,
        respect_breakglass: bool | None,
        raise_on_redaction: bool | None,
    ) -> None:
        self.model = model
        self._where = _Where(url, api_key or None)
        self._respect_breakglass = respect_breakglass
        self._raise_on_redaction = raise_on_redaction
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self.model!r})"

    def _turn(
        self,
        prompt: Prompt,
        model: str | None,
        metadata: Mapping[str, str] | None,
        tools: Iterable[Any] | None,
        parameters: dict[str, Any],
    ) -> _Turn:
        if self._closed:
            raise TapPassConfigError(f"this {type(self).__name__} is closed; make another")
        fields = {
            "model": model or self.model,
            "messages": tuple(_json(_messages(prompt), "prompt")),
            "tools": tuple(_json(list(tools or ()), "tools")),
            "metadata": _labels(metadata or {}),
            "parameters": _json(parameters, "parameters"),
        }
        return _Turn(fields, self._respect_breakglass, self._raise_on_redaction)


class Agent(_Governed):
    """Chats with a model through the control plane: each turn decided, inspected and recorded.

    It belongs to the active session, or else to its plane's implicit one, and keeps no history: what the model
    should know is in the prompt.

    Args:
        url: the control plane; by default the active session's, or what `tappass.plane.connect` finds.
        api_key: the key for that url.
        model: the model for turns that name none.
        respect_breakglass: go on under an emergency override instead of raising BreakGlassActive.
        raise_on_redaction: raise RedactionApplied instead of handing over redacted text. What is not said here is the
            session's, and False where that says nothing.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        model: str = DEFAULT_MODEL,
        respect_breakglass: bool | None = None,
        raise_on_redaction: bool | None = None,
    ) -> None:
        super().__init__(url, api_key, model, respect_breakglass, raise_on_redaction)

    def chat(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        tools: Iterable[Any] | None = None,
        **parameters: Any,
    ) -> ChatResponse:
        """Take one turn; `parameters` are further request fields of OpenAI's API, such as `temperature`.

        Raises:
            GovernanceDecision: it was refused, or its answer may not be seen.
            TapPassConnectionError: it could not be recorded, or no model answered.
            TapPassConfigError: the prompt is no prompt, or no upstream serves the model.
        """
        turn = self._turn(prompt, model, metadata, tools, parameters)
        session = place(self._where)
        request = turn.request(session)
        try:
            return noted(session, session.plane.sync.chat(request))
        except GovernanceDecision as error:
            turn.refused(session, error)
            raise

    def stream(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        tools: Iterable[Any] | None = None,
        **parameters: Any,
    ) -> ChatStream:
        """Take one turn, its answer chunk by chunk; iterating raises as `chat` does."""
        turn = self._turn(prompt, model, metadata, tools, parameters)
        session = place(self._where)

        def begin() -> ChunkSource:
            return session.plane.sync.stream(turn.request(session))

        return ChatStream(begin, lambda error: turn.refused(session, error), session.note_break_glass)

    def close(self) -> None:
        """Take no more turns. The plane stays open: others use it."""
        self._closed = True

    def __enter__(self: G) -> G:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncAgent(_Governed):
    """What `Agent` is, for async callers, on asyncio and trio."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str = "",
        model: str = DEFAULT_MODEL,
        respect_breakglass: bool | None = None,
        raise_on_redaction: bool | None = None,
    ) -> None:
        super().__init__(url, api_key, model, respect_breakglass, raise_on_redaction)

    async def chat(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        tools: Iterable[Any] | None = None,
        **parameters: Any,
    ) -> ChatResponse:
        """Take one turn; `parameters` and errors are `Agent.chat`'s."""
        turn = self._turn(prompt, model, metadata, tools, parameters)
        session = await aplace(self._where)
        request = turn.request(session)
        try:
            return noted(session, await session.plane.aio.chat(request))
        except GovernanceDecision as error:
            turn.refused(session, error)
            raise

    def stream(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        tools: Iterable[Any] | None = None,
        **parameters: Any,
    ) -> AsyncChatStream:
        """Take one turn, its answer chunk by chunk; iterating raises as `chat` does."""
        turn = self._turn(prompt, model, metadata, tools, parameters)
        # The session that is active now, even if the stream is read elsewhere.
        active = current_session() if self._where.url is None and self._where.api_key is None else None
        placed: list[Session] = []

        async def begin() -> AsyncChunkSource:
            session = active or await aplace(self._where)
            placed.append(session)
            return await session.plane.aio.stream(turn.request(session))

        return AsyncChatStream(
            begin, lambda error: turn.refused(placed[0], error), lambda fact: placed[0].note_break_glass(fact)
        )

    async def aclose(self) -> None:
        """Take no more turns. The plane stays open: others use it."""
        self._closed = True

    async def __aenter__(self: A) -> A:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def noted(session: Session, response: ChatResponse) -> ChatResponse:
    """Return a response, once its session knows whether it came about under an emergency override."""
    if response.break_glass is not None:
        session.note_break_glass(response.break_glass)
    return response


def _inner(said: bool | None, outer: bool) -> bool:
    return outer if said is None else said


def _messages(prompt: Prompt) -> list[Any]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if isinstance(prompt, Mapping | bytes) or not isinstance(prompt, Iterable):
        raise TapPassConfigError(
            f"a prompt is text or a list of messages, not {type(prompt).__name__}; "
            'pass "..." or [{"role": "user", "content": "..."}]'
        )
    return list(prompt)


def _json(value: Any, what: str) -> Any:
    """Return a value in JSON types, so that policy sees what the model gets."""
    try:
        projected = project(value, "", {}, {})
    except Unprojectable as error:
        raise TapPassConfigError(f"the chat was not sent: `{what}` cannot be shown to policy ({error})") from None
    if what != "parameters" and not all(type(item) is dict for item in projected):
        raise TapPassConfigError(f"the chat was not sent: each item of `{what}` is an object, as in OpenAI's API")
    return projected


def _labels(metadata: Mapping[str, str]) -> dict[str, str]:
    for name, value in metadata.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise TapPassConfigError("the chat was not sent: `metadata` holds text under text, for rules to read")
    return dict(metadata)


__all__ = ["Agent", "AsyncAgent"]
