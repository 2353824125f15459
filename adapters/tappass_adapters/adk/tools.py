"""Tool calls: decided around the method of the tool that ADK calls last, when no callback can change them any more."""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from tappass.errors import ApprovalRequired, TapPassConfigError, TapPassError
from tappass.ext import Entered, Gate, Interception, Session, ToolDefinition, source_digest, tell
from tappass_adapters.adk import resuming
from tappass_adapters.adk.plugin import speaking

if TYPE_CHECKING:
    from tappass_adapters.adk.guard import AdkGuard

GATE = "__tappass_gate__"

_definitions: weakref.WeakKeyDictionary[Any, tuple[tuple[Any, ...], ToolDefinition]] = weakref.WeakKeyDictionary()


class Tools:
    """The tool calls of one guard."""

    def __init__(self, guard: AdkGuard) -> None:
        self._guard = guard
        self._known: dict[int, Any] = {}
        self._nodes: set[int] = set()

    def expect(self, tool: Any, *, node: bool = False) -> None:
        """Stand before a tool until the unit ends."""
        if node:
            self._nodes.add(id(tool))
        if id(tool) not in self._known:
            self._known[id(tool)] = tool
            self._guard.arm(tool, "run_async", lambda original: _around(tool, original))
            if hasattr(tool, "_call_live"):
                # How older versions run a tool that streams in a live run.
                self._guard.arm(tool, "_call_live", lambda original: _around_live(tool, original))

    async def run(self, tool: Any, original: Any, args: dict[str, Any], context: Any) -> Any:
        """Run one tool call: decided, redacted, settled; paused where people have to agree.

        Raises:
            TapPassError: it was refused, and this guard raises.
        """
        session = self._guard.agents.session(context)
        token = resuming.token_of(context)
        if token:
            if not context.tool_confirmation.confirmed:
                return {"error": "This tool call is rejected."}
            session = copy.copy(session)
            session.resume_token = token
        try:
            with Entered(session):
                result = await self._decided(tool, original, args, context, session)
        except ApprovalRequired as error:
            self._guard.agents.paused(session, error)
            # A workflow's node asks in another way: past its plugins, or with the token in what its agents read.
            if id(tool) in self._nodes or not resuming.pauses(self._guard.runner, context):
                raise
            self._guard.pause(error)
            return resuming.request(error, tool.name, context)
        except TapPassError as error:
            return {"error": tell(session, error)}
        if token:
            self._guard.unpause(ApprovalRequired(resume_token=token))
        return result

    async def _decided(self, tool: Any, original: Any, args: dict[str, Any], context: Any, session: Session) -> Any:
        if is_governed(tool) or getattr(tool, "_defers_response", False):
            # A task that is delegated is decided where its agent begins: ADK goes past this tool.
            return await original(args=args, tool_context=context)

        async def run(**changed: Any) -> Any:
            # In place, for the user's own callbacks: they are shown what the tool got.
            args.clear()
            args.update(changed)
            return await original(args=changed, tool_context=context)

        definition = definition_of(tool)
        # A copy: somebody may hold the one that callbacks were shown, and change it while we ask.
        given = copy.deepcopy(args)
        if _streams(tool):
            return await _whole(tool, given, run, definition, session)
        return await Gate(tool.name, definition).arun(run, given, lambda text: {"error": text})


async def _whole(tool: Any, given: dict[str, Any], run: Any, definition: ToolDefinition, session: Session) -> Any:
    """Run a tool that is a generator, whose items ADK hands on as they come: nothing of it may be under inspection."""
    call = Interception(tool.name, given, definition=definition, session=session)
    changed = await call.abefore()
    if call.must_be_inspected:
        error = TapPassConfigError(
            f"`{tool.name}` was not run: policy inspects its result, and ADK hands on what a generator yields before "
            "anybody could; return the result instead"
        )
        session.let_stand(error)
        return await call.aafter(error=error)
    try:
        result = await run(**changed)
    except BaseException as error:
        return await call.aafter(error=error)
    return await call.aafter(result)


def _around(tool: Any, original: Any) -> Any:
    async def run_async(*, args: dict[str, Any], tool_context: Any) -> Any:
        guard = speaking(tool_context)
        if guard is None:
            return await original(args=args, tool_context=tool_context)
        return await guard.tools.run(tool, original, args, tool_context)

    return run_async


def _around_live(tool: Any, original: Any) -> Any:
    async def _call_live(*, args: dict[str, Any], tool_context: Any, **more: Any) -> AsyncIterator[Any]:
        async def begin(*, args: dict[str, Any], tool_context: Any) -> Any:
            return original(args=args, tool_context=tool_context, **more)

        guard = speaking(tool_context)
        if guard is None:
            result = await begin(args=args, tool_context=tool_context)
        else:
            result = await guard.tools.run(tool, begin, args, tool_context)
        if not inspect.isasyncgen(result):
            yield result
            return
        try:
            async for item in result:
                yield item
        finally:
            await result.aclose()

    return _call_live


def _streams(tool: Any) -> bool:
    function = getattr(tool, "func", None)
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def is_governed(tool: Any) -> bool:
    """Tell whether a tool is governed already: by `govern`, or because the function in it is."""
    if GATE in vars(tool):
        return True
    function = getattr(tool, "func", None)
    function = getattr(function, "__func__", function)
    covers = getattr(getattr(function, "__tappass__", None), "covers", None)
    return covers is not None and bool(covers(function))


def definition_of(tool: Any) -> ToolDefinition:
    """Return a tool as ADK describes it to the model; of a function its source counts too."""
    function = getattr(tool, "func", None)
    # ADK makes a tool of a plain function anew for each step.
    kept_by = function if inspect.isfunction(function) else tool
    key = (type(tool), tool.name, tool.description)
    known = _definitions.get(kept_by)
    if known is not None and known[0] == key:
        return known[1]
    definition = _defined(tool, function)
    _definitions[kept_by] = (key, definition)
    return definition


def _defined(tool: Any, function: Any) -> ToolDefinition:
    declared = tool._get_declaration()
    schema = getattr(declared, "parameters_json_schema", None)
    if schema is None and getattr(declared, "parameters", None) is not None:
        schema = declared.parameters.model_dump(mode="json", exclude_none=True, by_alias=True)
    schema = schema if isinstance(schema, dict) else {}
    return ToolDefinition(
        name=tool.name,
        description=getattr(declared, "description", None) or tool.description or "",
        parameters=schema,
        arguments=tuple(schema.get("properties") or ()),
        open_arguments=declared is None,
        source_digest=source_digest(function) if function is not None else "",
        package=(getattr(function, "__module__", None) or "").partition(".")[0],
    )
