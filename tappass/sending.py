"""A call that an adapter makes itself, where the protocol leads: sent once it may be, settled with what came back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from tappass import interception
from tappass.enforcement.action import Show
from tappass.enforcement.drivers import adrive
from tappass.enforcement.flow import enforce
from tappass.session.registry import registry
from tappass.session.session import Options, Session
from tappass.wire.decisions import ToolDefinition

UNLISTED = "unlisted"


async def acall(
    run: Callable[[dict[str, Any]], Awaitable[Any]],
    name: str,
    arguments: Mapping[str, Any],
    *,
    session: Session,
    definition: ToolDefinition,
    doubt: str = "",
    show: Show | None = None,
    options: Options | None = None,
) -> Any:
    """Govern one call that the adapter itself makes: decided, made with what it may be given, settled.

    Args:
        run: takes the arguments, redacted where policy says so; only called after a durable yes.
        name: the tool's name, as policy calls it.
        arguments: by name, in JSON types.
        session: where the call belongs.
        definition: the tool's whole definition.
        doubt: what speaks against the tool, as `DecisionRequest.doubt` has it.
        show: how to show its result for inspection: in JSON types, and whether part of it stayed opaque.
        options: what the guard's caller asked for.

    Raises:
        GovernanceDecision: it may not be made, or its result may not be seen.
        TapPassConnectionError: the decision could not be recorded; nothing ran.
        TapPassConfigError: an argument cannot be shown to policy.
    """

    async def ran(**given: Any) -> Any:
        return await run(given)

    call = interception.framework_call(
        session,
        "tool",
        name,
        dict(arguments),
        ran,
        definition=definition,
        options=options,
    )
    call.show, call.doubt = show, doubt
    if doubt == UNLISTED:
        # There is no definition that a person could look at.
        call.definition, call.action = None, msgspec.structs.replace(call.action, definition_digest="")
    return await adrive(enforce(call), session.plane.aio, call)


def outermost(session: Session) -> str:
    """Return the id of the outermost open session around one, as far as this process knows."""
    while (around := registry.session(session.parent)) is not None:
        session = around
    return session.session_id
