"""Sessions and calls of executions that outlive a process: named by the caller, found again by whoever goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from tappass import interception
from tappass.decorators import known_spec
from tappass.enforcement.action import RAISE, Call
from tappass.enforcement.drivers import adrive
from tappass.enforcement.flow import enforce
from tappass.enforcement.latch import Latch
from tappass.enforcement.port import Plane
from tappass.enforcement.projection import Encoders
from tappass.enforcement.signature import CallSignature
from tappass.errors import TapPassConfigError, TapPassConnectionError
from tappass.plane.connect import connect
from tappass.session.context import enter
from tappass.session.registry import registry
from tappass.session.session import Options, Session
from tappass.toolspec import ToolSpec
from tappass.wire.sessions import Opening, SessionRecord


def derived_id(prefix: str, *parts: str) -> str:
    """Return the id that these parts always have, in any process: `<prefix>_` and 32 hex digits of a SHA-256."""
    # Each with its length before it: no two lists of parts are one text.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return f"{prefix}_{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def step_of(function: Callable[..., Any], name: str, encoders: Encoders | None = None) -> ToolSpec:
    """Return how a function that an execution runs is shown to policy; one that is governed already is decided once.

    `function` of what is returned is what is to be run, past the gate that the function had of its own.

    Args:
        function: what the execution runs.
        name: what policy calls it, unless it is a governed tool and has a name already.
        encoders: how to show values that have no JSON projection, by type or argument name.

    Raises:
        TapPassConfigError: it has no signature that can be read.
    """
    known = known_spec(function)
    if known is not None and known.url is None and known.api_key is None:
        # Held as the execution holds its calls, whatever the tool does elsewhere.
        options = msgspec.structs.replace(known.options, on_approval=RAISE)
        rest: dict[str, Any] = {"server": known.server, "min_tier": known.min_tier}
        shown = {**(encoders or {}), **known.encoders}
        return ToolSpec(known.name, known.function, known.signature, encoders=shown, options=options, **rest)
    try:
        signature = CallSignature(function)
    except (TypeError, ValueError) as error:
        raise TapPassConfigError(f"`{name}` has no signature that can be read; policy could not see it") from error
    return ToolSpec(name, function, signature, encoders=encoders or {}, options=Options(on_approval=RAISE))


class Executions:
    """The executions that processes share on one plane; connected to when it is first needed.

    Args:
        url: the plane, by default as in `tappass_session`.
        api_key: the key for that url, and for no other.
        options: what the guard's caller asked for.
    """

    def __init__(self, url: str | None, api_key: str | None, options: Options) -> None:
        self._url, self._api_key = url, api_key
        self._options = options
        self._connected: Plane | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Not the key: a pickle may go anywhere, a key only to its server.
        return self.__dict__ | {"_api_key": None, "_connected": None}

    def plane(self) -> Plane:
        """Return the plane.

        Raises:
            TapPassConfigError: the url has a scheme that this version does not speak, or a key or an extra is missing.
            TapPassConnectionError: its database or outbox cannot be opened.
        """
        if self._connected is None:
            self._connected = connect(self._url, self._api_key)
        return self._connected

    async def session(self, opening: Opening | None, options: Options | None = None) -> Session:
        """Return an execution's session, opened if this is the first that anybody asks; None is the process's own.

        Raises:
            TapPassConfigError: the session is another agent's, or the policy cannot be loaded.
            TapPassConnectionError: the plane cannot record it.
        """
        # On a thread and to its end: a session that is shared is not closed because one who asked was cancelled.
        if opening is None:
            return await anyio.to_thread.run_sync(lambda: registry.implicit(self.plane()))
        record = await anyio.to_thread.run_sync(self._open, opening)
        asked = (options or Options()).over(self._options)
        return Session(record, self.plane(), asked, latch=Latch(brings_back=False))

    def _open(self, opening: Opening) -> SessionRecord:
        plane = self.plane()
        try:
            return plane.sync.open(opening)
        except TapPassConfigError:
            if not opening.parent:
                raise
        # Started in a session that is not this agent's: it stands by itself, and says where it came from.
        metadata = opening.metadata | {"started_in": opening.parent}
        return plane.sync.open(msgspec.structs.replace(opening, parent="", metadata=metadata))

    async def close(self, opening: Opening, status: str, timeout_s: float) -> None:
        """Close an execution's session as completed, failed or suspended, durably; one that had none gets one first.

        Args:
            opening: which.
            status: how.
            timeout_s: how long to wait for a plane that keeps silent.

        Raises:
            TapPassConfigError: the session is another agent's, or there is no such status.
            TapPassConnectionError: the plane cannot record it, or did not in that time.
        """

        def close() -> None:
            self._open(opening)
            self.plane().sync.close(opening.id, status)

        with anyio.move_on_after(timeout_s) as scope:
            await anyio.to_thread.run_sync(close, abandon_on_cancel=True)
        if scope.cancelled_caught:
            raise TapPassConnectionError(f"the session `{opening.id}` was not closed within {timeout_s:g} seconds")

    async def run(
        self,
        session: Session,
        step: ToolSpec,
        args: Sequence[Any],
        run: Callable[..., Any],
        *,
        task_id: str = "",
    ) -> Any:
        """Govern one call of an execution: decided, run by `run` with the arguments it may have, settled.

        Args:
            session: the execution's.
            step: what is called, as `step_of` returned it.
            args: its positional arguments.
            run: a coroutine function that calls it; inside, the session is the active one.
            task_id: the same for the same attempt, so that an answer that was lost is asked for again, not anew.

        Raises:
            GovernanceDecision: the plane refused; nothing ran, or its result is withheld.
            TapPassConnectionError: the decision could not be recorded; nothing ran.
        """
        call = _call(session, step, tuple(args), run)
        call.task_id = task_id or call.task_id
        before = enter(session)
        try:
            return await adrive(enforce(call), session.plane.aio, call)
        finally:
            enter(before)

    async def stands(self, token: str) -> str:
        """Return how an approval stands now: pending, approved, denied, expired, cancelled or redeemed.

        Raises:
            TapPassConfigError: this plane did not issue the token.
            TapPassConnectionError: the plane does not answer.
        """
        return await anyio.to_thread.run_sync(partial(self._stands, token))

    def _stands(self, token: str) -> str:
        return self.plane().sync.wait(token, 0.0)

    async def owns(self, session: Session) -> bool:
        """Tell whether a session is on this plane."""
        return await anyio.to_thread.run_sync(self.plane) is session.plane


def _call(session: Session, step: ToolSpec, args: tuple[Any, ...], run: Callable[..., Any]) -> Call:
    try:
        originals = step.signature.bind(args, {})
    except TypeError as error:
        raise TypeError(f"{step.name}() {error}") from None
    call = interception.framework_call(
        session,
        "tool",
        step.name,
        originals,
        run,
        definition=step.definition(),
        encoders=step.encoders,
        options=step.options,
        rebind=lambda changed: step.signature.rebind(args, {}, changed),
    )
    # By position, as whoever runs it passes them; by name they are for policy.
    call.args, call.kwargs = args, {}
    return call
