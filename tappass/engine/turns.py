"""One chat turn under the one flow: its call, what it heard, and the plane that the flow's driver talks to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from tappass.enforcement.action import RAISE, Call, project_arguments
from tappass.enforcement.verdicts import redacted
from tappass.engine.answers import Answer, AnswerScanner, answer_of, tool_calls_of
from tappass.engine.chat_arguments import arguments_of, printable, with_arguments
from tappass.engine.hopping import hop_to_the_end
from tappass.engine.openai_shapes import Chunk, Completion, ToolCallDelta, check_parameters
from tappass.engine.voting import await_decision
from tappass.errors import GovernanceDecision, RedactionApplied
from tappass.wire.chat import ChatChunk, ChatRequest, ChatResponse, ToolCall, Usage
from tappass.wire.correlation import Correlation
from tappass.wire.decisions import Action, Decision, DecisionRequest
from tappass.wire.endings import Ending, Settlement
from tappass.wire.findings import Finding, Redaction
from tappass.wire.obligations import RedactArguments, ScanResult
from tappass.wire.refusals import BreakGlass

if TYPE_CHECKING:
    from tappass.engine.engine import Engine

_LARGE = 20_000


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The session a turn belongs to, as the flow needs to know it; refusals are latched where the caller is."""

    correlation: Correlation
    raise_on_redaction: bool
    respect_breakglass: bool
    resume_token: str = ""
    on_approval: str = RAISE
    approval_timeout_s: float | None = None
    latch: None = None

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self.correlation.session_id

    def note_break_glass(self, break_glass: BreakGlass) -> None:
        """Note nothing here: response and chunks tell the caller's session."""


class Turn:
    """One chat turn. It is what the flow's driver asks, and remembers what was answered."""

    def __init__(self, engine: Engine, request: ChatRequest, run: Callable[[Turn, ChatRequest], Any]) -> None:
        check_parameters(request.parameters)
        self._engine = engine
        self._request = request
        self.opened = engine.sessions.find(request.session_id)
        record = self.opened.record
        self.place = Place(
            correlation=Correlation(
                session_id=record.session_id,
                agent_uuid=record.agent_uuid,
                pipeline_uuid=record.pipeline_uuid,
                audit_url=record.audit_url,
            ),
            raise_on_redaction=request.raise_on_redaction,
            respect_breakglass=request.respect_breakglass,
            resume_token=request.resume_token,
            on_approval=request.on_approval or RAISE,
            approval_timeout_s=request.approval_timeout_s,
        )
        self.voting = engine.voting
        self.decision: Decision | None = None
        self.settlement = Settlement()
        self.scanner_of_answer: AnswerScanner | None = None
        self._completion = Completion(content="", model=request.model)
        self.ran = False
        """Whether the upstream was asked."""
        self.call = self._call(run)

    def _call(self, run: Callable[[Turn, ChatRequest], Any]) -> Call:
        request = self._request
        arguments, types = project_arguments(request.model, arguments_of(request), {})
        asked = msgspec.structs.replace(
            request,
            messages=tuple(arguments["messages"]),
            tools=tuple(arguments["tools"]),
            parameters=arguments["parameters"],
        )

        def begin(changed: ChatRequest) -> Any:
            self.ran = True
            return run(self, changed)

        return Call(
            Action(kind="llm", name=request.model, arguments=arguments, types=types),
            self.place,
            begin,
            (asked,),
            {},
            originals=arguments,
            rebind=lambda changed: ((with_arguments(asked, changed),), {}),
            task_id=request.task_id,
        )

    # What the driver asks of a plane.

    def decide(self, request: DecisionRequest) -> Decision:
        """Ask the engine."""
        self.decision = self._engine.decide(request)
        return self.decision

    def wait(self, token: str, timeout_s: float) -> str:
        """Wait for people."""
        return self.voting.wait(token, timeout_s)

    def settle(self, ending: Ending) -> Settlement:
        """Tell the engine."""
        self.settlement = self._engine.settle(self._certain(ending))
        return self.settlement

    def abandon(self, ending: Ending) -> None:
        """Tell the engine, from a finaliser."""
        self._engine.abandon(self._certain(ending))

    def _certain(self, ending: Ending) -> Ending:
        """Return an ending that says so where the upstream was never asked: such a turn cost nothing."""
        return ending if self.ran else msgspec.structs.replace(ending, ran=False)

    def scanner(self, scan: ScanResult, session_id: str) -> AnswerScanner:
        """Return the reader of this turn's streamed answer."""
        self.scanner_of_answer = AnswerScanner(lambda: self._engine.scanner(scan, session_id))
        return self.scanner_of_answer

    # What the upstream said.

    def heard(self, completion: Completion) -> Answer:
        """Note a whole answer; return the part of it that is inspected."""
        self._completion = completion
        self.call.model = printable(completion.model)
        self.call.usage = completion.usage
        return answer_of(completion)

    def response(self, answer: Answer) -> ChatResponse:
        """Return the response for an answer that may be seen."""
        ids = self.place.correlation
        return ChatResponse(
            content=answer.content,
            model=printable(self._completion.model),
            session_id=ids.session_id,
            task_id=self.call.task_id,
            agent_uuid=ids.agent_uuid,
            pipeline_uuid=ids.pipeline_uuid,
            audit_url=ids.audit_url,
            usage=self._completion.usage or Usage(),
            tool_calls=tool_calls_of(answer, self._completion),
            redactions=self.redactions(),
            finish_reason=printable(self._completion.finish_reason),
            break_glass=self._break_glass(),
        )

    def passed(self, chunk: Chunk) -> Iterator[ChatChunk]:
        """Note a chunk; yield what may be seen of it, which is nothing while all of it is held back."""
        self.call.model = printable(chunk.model) or self.call.model
        self.call.usage = chunk.usage or self.call.usage
        content, deltas = chunk.content, chunk.tool_calls
        if self.scanner_of_answer is not None:
            content, deltas = self.scanner_of_answer.read(chunk)
        yield from self._chunk(content, deltas, printable(chunk.finish_reason), chunk.usage)

    def rest(self) -> Iterator[ChatChunk]:
        """Yield what is still held back when the upstream has ended."""
        if self.scanner_of_answer is not None:
            yield from self._chunk(*self.scanner_of_answer.rest(), "", None)

    def _chunk(
        self, content: str, deltas: tuple[ToolCallDelta, ...], finish_reason: str, usage: Usage | None
    ) -> Iterator[ChatChunk]:
        scanner, name = self.scanner_of_answer, self.call.action.name
        if scanner is not None and self.call.raise_on_redaction and scanner.redactions:
            raise redacted(scanner.redactions, content, name, self._ids(), ran=True)
        if not (content or deltas or finish_reason or usage):
            return
        ids = self.place.correlation
        yield ChatChunk(
            content=content,
            model=self.call.model or name,
            session_id=ids.session_id,
            task_id=self.call.task_id,
            agent_uuid=ids.agent_uuid,
            pipeline_uuid=ids.pipeline_uuid,
            audit_url=ids.audit_url,
            tool_calls=tuple(ToolCall(id=d.id, name=d.name, arguments=d.arguments, index=d.index) for d in deltas),
            finish_reason=finish_reason,
            usage=usage,
            break_glass=self._break_glass(),
        )

    def _break_glass(self) -> BreakGlass | None:
        return self.decision.break_glass if self.decision is not None else None

    # Errors.

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Complete a refusal on its way out: whether the upstream was asked, the ids, text instead of our shapes."""
        try:
            yield
        except GovernanceDecision as error:
            error.ran = self.ran
            if not error.session_id:
                _place(error, self._ids())
            if isinstance(error, RedactionApplied):
                error.redacted_content = _as_text(error.redacted_content)
                error.redactions = tuple(r for r in error.redactions if not _is_derived(r))
            raise

    def _ids(self) -> Correlation:
        return msgspec.structs.replace(self.place.correlation, task_id=self.call.task_id)

    def found(self) -> tuple[Finding, ...]:
        """Return what was found in the turn so far, in prompt and answer."""
        asked = self.decision.findings if self.decision is not None else ()
        streamed = self.scanner_of_answer.findings if self.scanner_of_answer is not None else ()
        return asked + (streamed or self.settlement.findings)

    def redactions(self) -> tuple[Redaction, ...]:
        """Return what was replaced in the turn so far, in prompt and answer."""
        streamed = self.scanner_of_answer.redactions if self.scanner_of_answer is not None else ()
        return self._prompt_redactions() + (streamed or self.settlement.redactions)

    def _prompt_redactions(self) -> tuple[Redaction, ...]:
        obligations = self.decision.obligations if self.decision is not None else ()
        made = (r for o in obligations if isinstance(o, RedactArguments) for r in o.redactions)
        return tuple(r for r in made if not _is_derived(r))


class AsyncTurn:
    """The same turn for the async driver: what waits for the disk leaves the event loop."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.abandon = turn.abandon
        self.scanner = turn.scanner

    async def decide(self, request: DecisionRequest) -> Decision:
        """Ask the engine; a cancelled caller leaves only once the answer is on record or is none."""
        return await hop_to_the_end(self._turn.decide, request)

    async def wait(self, token: str, timeout_s: float) -> str:
        """Wait for people; the event loop stays free."""
        return await await_decision(self._turn.voting, token, timeout_s)

    async def settle(self, ending: Ending) -> Settlement:
        """Tell the engine; a large answer is inspected on a thread."""
        if _is_large(ending):
            return await hop_to_the_end(self._turn.settle, ending, must=True)
        return self._turn.settle(ending)


def _is_derived(redaction: Redaction) -> bool:
    return redaction.where == "/prompt"


def _place(error: GovernanceDecision, ids: Correlation) -> None:
    for name in ids.__struct_fields__:
        setattr(error, name, getattr(ids, name))


def _as_text(content: Any) -> Any:
    if isinstance(content, Answer):
        return content.content
    return content.get("prompt", content) if isinstance(content, dict) else content


def _is_large(ending: Ending) -> bool:
    result = ending.result
    return isinstance(result, dict) and len(str(result.get("content", ""))) > _LARGE
