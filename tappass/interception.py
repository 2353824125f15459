"""One call that a framework makes itself: decided before it, settled after it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from tappass.enforcement.action import Call, project_arguments
from tappass.enforcement.effects import Flow
from tappass.enforcement.flow import enforce
from tappass.enforcement.obligations import not_redactable
from tappass.enforcement.paused import AsyncPausedCall, PausedCall
from tappass.enforcement.projection import Encoders
from tappass.enforcement.verdicts import printable, withheld
from tappass.errors import ApprovalRequired, GovernanceDecision, TapPassConfigError, TapPassError
from tappass.placing import ANYWHERE, Placed, aplace, place
from tappass.session.session import TELL, Options, Session
from tappass.toolspec import sha256
from tappass.wire.chat import Usage, prompt_text
from tappass.wire.codec import canonical
from tappass.wire.decisions import Action, ToolDefinition
from tappass.wire.endings import Settlement


class Interception:
    """One call that a framework makes between two of its hooks.

        call = Interception("get_weather", {"city": "Paris"})
        arguments = call.before()          # raises: do not run the tool
        result = call.after(tool(**arguments))

    Args:
        name: the tool's name, as policy calls it.
        arguments: by name, without what the framework injects.
        definition: the tool as the framework describes it to the model.
        encoders: how to show values that have no JSON projection.
        options: what the guard's caller asked for.
        session: where the call belongs, if not to the active session.
        fixed: the framework cannot be given other arguments: a call that may only run redacted is refused.
        unseen: nobody here sees the result: a call whose result must be inspected is refused.
        resume_token: the approval by which this very call goes on, if not the session's.
        placed: what insists on a plane, where no session is given.
    """

    kind = "tool"

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        definition: ToolDefinition | None = None,
        encoders: Encoders | None = None,
        options: Options | None = None,
        session: Session | None = None,
        fixed: bool = False,
        unseen: bool = False,
        resume_token: str = "",
        placed: Placed = ANYWHERE,
    ) -> None:
        self.name = name
        self._arguments = dict(arguments)
        self._definition = definition
        self._encoders = encoders or {}
        self._options = options or Options()
        self._session = session
        self._fixed = fixed
        self._unseen = unseen
        self._resume_token = resume_token
        self._placed = placed
        self._call: Call | None = None
        self._paused: PausedCall | None = None
        self._apaused: AsyncPausedCall | None = None

    def _begun(self, session: Session) -> Call:
        self._session = session
        rebind = _refusing(session, self.name) if self._fixed else None
        self._call = framework_call(
            session,
            self.kind,
            self.name,
            self._arguments,
            _never,
            definition=self._definition,
            encoders=self._encoders,
            options=self._options,
            rebind=rebind,
            resume_token=self._resume_token,
        )
        self._call.unseen = self._unseen
        return self._call

    def _flow(self, call: Call) -> Flow[Any]:
        return enforce(call)

    def before(self) -> dict[str, Any]:
        """Decide; return the arguments that the call may be made with.

        Raises:
            GovernanceDecision: it may not be made.
            TapPassConnectionError: the decision could not be recorded.
            TapPassConfigError: an argument cannot be shown to policy.
        """
        session = self._session or place(self._placed)
        call = self._begun(session)
        self._paused = PausedCall(self._flow(call), session.plane.sync, call)
        return self._paused.start().kwargs

    def after(self, result: Any = None, error: BaseException | None = None) -> Any:
        """Settle with what the call returned or raised; return what may be seen of its result."""
        assert self._paused is not None, "before() comes first"
        return self._paused.finish(result, error)

    async def abefore(self) -> dict[str, Any]:
        """Decide; return the arguments that the call may be made with. The async twin of `before`."""
        session = self._session or await aplace(self._placed)
        call = self._begun(session)
        self._apaused = AsyncPausedCall(self._flow(call), session.plane.aio, call)
        return (await self._apaused.start()).kwargs

    async def aafter(self, result: Any = None, error: BaseException | None = None) -> Any:
        """Settle; return what may be seen of the result. The async twin of `after`."""
        assert self._apaused is not None, "abefore() comes first"
        return await self._apaused.finish(result, error)

    @property
    def inspected(self) -> bool:
        """Whether the result will be inspected: until `after` nobody may see any of it."""
        return self._call is not None and self._call.scan is not None

    @property
    def must_be_inspected(self) -> bool:
        """Whether the result is withheld where it cannot be inspected."""
        return self._call is not None and self._call.scan is not None and self._call.scan.require

    def refused(self, error: TapPassError) -> str:
        """Return what the model is told of a refusal, where the guard tells; raise the refusal where it does not."""
        return tell(self._session, error)


class ModelCall(Interception):
    """One model call that a framework makes between two of its hooks; rules for `llm:` read it as any chat turn.

    In a guard that raises, a unit in which a refusal stands makes no further model call: the refusal is raised again.

    Args:
        model: the model's name, as the framework is configured.
        messages: OpenAI's shape where the framework's own can be put that way; JSON types.
        tools: the tools offered, as the framework describes them.
        parameters: what else is sent (`temperature`, …).
        metadata: who asks, as the framework names agents and tasks; readable in rules as `args.metadata`.
        options: what the guard's caller asked for.
        session: where the call belongs, if not to the active session.
        fixed: the framework cannot be given other messages.
    """

    kind = "llm"

    def __init__(
        self,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        *,
        tools: Iterable[Any] = (),
        parameters: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        options: Options | None = None,
        session: Session | None = None,
        fixed: bool = False,
    ) -> None:
        told = tuple(dict(message) for message in messages)
        arguments = {
            "model": model,
            "prompt": prompt_text(told),
            "messages": list(told),
            "tools": list(tools),
            "metadata": dict(metadata or {}),
            "parameters": dict(parameters or {}),
        }
        super().__init__(model, arguments, options=options, session=session, fixed=fixed)

    def _begun(self, session: Session) -> Call:
        if (stands := session.standing) is not None and session.on_block != TELL:
            raise copy.copy(stands)
        return super()._begun(session)

    def heard(self, model: str = "", prompt_tokens: int | None = None, completion_tokens: int | None = None) -> None:
        """Note which model answered, and how many tokens it took, before `after`."""
        assert self._call is not None, "before() comes first"
        self._call.model = model or self.name
        if prompt_tokens is not None or completion_tokens is not None:
            asked, said = prompt_tokens or 0, completion_tokens or 0
            self._call.usage = Usage(prompt_tokens=asked, completion_tokens=said, total_tokens=asked + said)


def framework_call(
    session: Session,
    kind: str,
    name: str,
    arguments: dict[str, Any],
    run: Callable[..., Any],
    *,
    definition: ToolDefinition | None = None,
    encoders: Encoders | None = None,
    options: Options | None = None,
    rebind: Callable[[dict[str, Any]], Any] | None = None,
    resume_token: str = "",
) -> Call:
    """Return the call of something that a framework describes; `run` gets the arguments by name.

    It goes on by the approval that `resume_token` stands for, "" for the session's.

    Raises:
        TapPassConfigError: an argument cannot be shown to policy.
    """
    if definition is None and kind == "tool":
        definition = ToolDefinition(name=name, arguments=tuple(arguments))
    options = options or Options()
    try:
        projected, types = project_arguments(name, arguments, encoders or {})
    except TapPassConfigError as error:
        session.let_stand(error)
        raise
    action = Action(kind=kind, name=name, arguments=projected, types=types)
    if definition is not None:
        digest = sha256(canonical(definition))
        action = msgspec.structs.replace(action, server=definition.server, definition_digest=digest)
    call = Call(
        action,
        session,
        run,
        (),
        arguments,
        originals=arguments,
        rebind=rebind or (lambda changed: ((), arguments | changed)),
        definition=definition,
        **options.of_call(),
    )
    call.resume_token = resume_token or call.resume_token
    return call


def tell(session: Session | None, error: TapPassError) -> str:
    """Return what the model is told of a refusal; an approval, or a plane's fault, is nothing to tell a model.

    Raises:
        TapPassError: the error, where the guard raises, or where it is no refusal.
    """
    told = isinstance(error, GovernanceDecision) and not isinstance(error, ApprovalRequired)
    if session is None or session.on_block != TELL or not told:
        raise error
    if session.latch is not None:
        session.latch.told(error)
    reason = getattr(error, "reason", "") or "refused by policy"
    return f"Not done: {printable(reason)}. Do not try the same again."


def irreplaceable(
    session: Session,
    name: str,
    reason: str = "its result holds what must be redacted, and the framework cannot be given another",
) -> TapPassError:
    """Return the error for a result that may only be seen redacted, where the framework cannot be given another."""
    error = withheld(Settlement(withheld_by="result-not-redactable", reason=reason), name, session.correlation)
    session.let_stand(error)
    return error


def _refusing(session: Session, name: str) -> Callable[[dict[str, Any]], Any]:
    def rebind(_changed: dict[str, Any]) -> Any:
        raise not_redactable(name, "where the framework cannot be given others", session.correlation)

    return rebind


def _never(**_arguments: Any) -> None:
    raise AssertionError("the framework makes this call, not its interception")
