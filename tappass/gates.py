"""A tool object of a framework, governed on every path by which it runs."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from tappass.enforcement.drivers import adrive, drive
from tappass.enforcement.flow import enforce
from tappass.enforcement.projection import Encoders
from tappass.errors import TapPassError
from tappass.interception import Interception, framework_call, tell
from tappass.placing import aplace, place
from tappass.session.context import current_session
from tappass.session.session import Options, Session
from tappass.wire.decisions import ToolDefinition


class Gate:
    """What stands before one tool of a framework; the adapter puts `run` or `arun` around what runs it.

    Args:
        name: the tool's name, as the model and policy call it.
        definition: the tool as the framework describes it to the model.
        url: the plane that decides, if not the active session's.
        api_key: the key for that url, and for no other.
        encoders: how to show values that have no JSON projection.
        options: what the caller of `govern` or of the guard asked for.
        session: where calls belong that come without a session, from a bare thread.
    """

    def __init__(
        self,
        name: str,
        definition: ToolDefinition,
        *,
        url: str | None = None,
        api_key: str | None = None,
        encoders: Encoders | None = None,
        options: Options | None = None,
        session: Session | None = None,
    ) -> None:
        self.name = name
        self.definition = definition
        self.url = url
        self.api_key = api_key
        self.encoders = encoders or {}
        self.options = options or Options()
        self.session = session

    def __deepcopy__(self, memo: dict[int, Any]) -> Gate:
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Not the key: a pickle may go anywhere, a key only to its server.
        return self.__dict__ | {"api_key": None, "session": None}

    def intercept(
        self, arguments: Mapping[str, Any], *, session: Session | None = None, resume_token: str = ""
    ) -> Interception:
        """Return one call of the tool, for an adapter that decides it before the framework runs it.

        Args:
            arguments: as the model gave them, without what the framework injects.
            session: where it belongs, unless the gate insists on a plane.
            resume_token: the approval by which it goes on.
        """
        return Interception(
            self.name,
            arguments,
            definition=self.definition,
            encoders=self.encoders,
            options=self.options,
            session=self._bound() if self.url is not None or session is None else session,
            resume_token=resume_token,
            placed=self,
        )

    def run(
        self,
        function: Callable[..., Any],
        arguments: Mapping[str, Any],
        told: Callable[[str], Any] = str,
        resume_token: str = "",
    ) -> Any:
        """Run the tool with these arguments by name, redacted where policy says so; return its result, likewise.

        Args:
            function: runs the tool; gets the arguments by name.
            arguments: as the model gave them, without what the framework injects.
            told: makes the tool's result of what the model is told, where the guard tells.
            resume_token: the approval by which this very call goes on, if not the session's.

        Raises:
            TapPassError: the tool did not run, or its result may not be seen.
        """
        session = self._bound() or place(self)
        try:
            call = self._call(session, function, arguments, resume_token)
            return drive(enforce(call), session.plane.sync, call)
        except TapPassError as error:
            return told(tell(session, error))

    async def arun(
        self,
        function: Callable[..., Awaitable[Any]],
        arguments: Mapping[str, Any],
        told: Callable[[str], Any] = str,
        resume_token: str = "",
    ) -> Any:
        """Run the tool. The async twin of `run`."""
        session = self._bound() or await aplace(self)
        try:
            call = self._call(session, function, arguments, resume_token)
            return await adrive(enforce(call), session.plane.aio, call)
        except TapPassError as error:
            return told(tell(session, error))

    def _bound(self) -> Session | None:
        return self.session if self.url is None and current_session() is None else None

    def _call(
        self, session: Session, function: Callable[..., Any], arguments: Mapping[str, Any], resume_token: str
    ) -> Any:
        return framework_call(
            session,
            "tool",
            self.name,
            dict(arguments),
            function,
            definition=self.definition,
            encoders=self.encoders,
            options=self.options,
            resume_token=resume_token,
        )


class Governing:
    """How the tools of one `govern([...])`, or of one guard, are to be governed.

    Args:
        url: the plane that decides, if not the active session's.
        api_key: the key for that url, and for no other.
        encoders: how to show values that have no JSON projection, by argument name or by type.
        options: what the caller asked for.
        session: where calls belong that come without a session, from a bare thread.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        api_key: str | None = None,
        encoders: Encoders | None = None,
        options: Options | None = None,
        session: Session | None = None,
    ) -> None:
        self._given: dict[str, Any] = {
            "url": url,
            "api_key": api_key,
            "encoders": encoders,
            "options": options,
            "session": session,
        }

    def gate(self, definition: ToolDefinition) -> Gate:
        """Return the gate of one tool."""
        return Gate(definition.name, definition, **self._given)


def by_name(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    hidden: Collection[str] = (),
    signature: inspect.Signature | None = None,
) -> tuple[dict[str, Any], Callable[..., Any]]:
    """Return a call's arguments by name, defaults filled, and what makes the call with such arguments.

    What goes into a `**rest` is there by its own names, as the model gave it; an empty `*rest` is not there.

    Args:
        function: what is called.
        args: its positional arguments.
        kwargs: its others.
        hidden: the names that the framework injects, which policy is not shown.
        signature: the function's, where it is known.

    Raises:
        TypeError: they do not fit.
    """
    signature = signature or inspect.signature(function)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
    rest = next((name for name, kind in kinds.items() if kind is inspect.Parameter.VAR_KEYWORD), "")
    more: dict[str, Any] = bound.arguments.get(rest, {})
    own = {name: value for name, value in bound.arguments.items() if name != rest}
    if twice := sorted(own.keys() & more.keys()):
        raise TypeError(f"given twice: {', '.join(twice)}")

    def call(**named: Any) -> Any:
        for name, value in named.items():
            (bound.arguments if name in own else more)[name] = value
        return function(*bound.args, **bound.kwargs)

    nothing = {name for name, value in own.items() if kinds[name] is inspect.Parameter.VAR_POSITIONAL and not value}
    return {name: value for name, value in (own | more).items() if name not in hidden and name not in nothing}, call
