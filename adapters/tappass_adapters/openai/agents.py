"""Agents of the Agents SDK in governed form: the user's own agent, seen through a run."""

from __future__ import annotations

import copy
import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tappass.errors import TapPassConfigError, TapPassError
from tappass.ext import Guarded, Interception, ToolDefinition
from tappass_adapters.openai import tools
from tappass_adapters.openai.current import current_run
from tappass_adapters.openai.models import governed_model

if TYPE_CHECKING:
    from tappass_adapters.openai.runs import Run


class _Seen:
    """What is different about an agent in a run; all else is the user's agent, of which it shares every attribute."""

    __slots__ = ()
    __tappass_run__: Any
    __tappass_agent__: Any

    @property
    def _agents_public_agent(self) -> Any:
        # By this the SDK knows whom an approval belongs to: the user's agent, of which each run has another view.
        return self.__tappass_agent__

    @property
    def tools(self) -> Any:
        """The agent's own tools: function tools governed, others as they are until they are offered to a model."""
        from agents import FunctionTool

        run = self.__tappass_run__
        return [run.tool(tool) if isinstance(tool, FunctionTool) else tool for tool in self.__tappass_agent__.tools]

    @tools.setter
    def tools(self, value: Any) -> None:
        self.__tappass_agent__.tools = value

    @property
    def handoffs(self) -> Any:
        """The agents that it may hand over to, governed."""
        return [self.__tappass_run__.keep("handoff", item, self._handoff) for item in self.__tappass_agent__.handoffs]

    @handoffs.setter
    def handoffs(self, value: Any) -> None:
        self.__tappass_agent__.handoffs = value

    @property
    def model(self) -> Any:
        """Its model, governed; a name as it is."""
        return governed_model(self.__tappass_agent__.model)

    @model.setter
    def model(self, value: Any) -> None:
        self.__tappass_agent__.model = value

    @property
    def hooks(self) -> Any:
        """Its hooks, which see the user's own agents and tools."""
        return seeing_originals(self.__tappass_agent__.hooks, "AgentHooksBase")

    @hooks.setter
    def hooks(self, value: Any) -> None:
        self.__tappass_agent__.hooks = value

    async def get_all_tools(self, run_context: Any) -> list[Any]:
        """Return all tools that are offered to the model, MCP servers' among them, governed."""
        self.__tappass_run__.begun = True
        return [self.__tappass_run__.tool(tool) for tool in await self.__tappass_agent__.get_all_tools(run_context)]

    async def get_mcp_tools(self, run_context: Any) -> list[Any]:
        """Return the tools of its MCP servers, governed."""
        return [self.__tappass_run__.tool(tool) for tool in await self.__tappass_agent__.get_mcp_tools(run_context)]

    async def get_system_prompt(self, run_context: Any) -> Any:
        """Return its instructions, which are the user's function where they are one."""
        return await self.__tappass_agent__.get_system_prompt(run_context)

    async def get_prompt(self, run_context: Any) -> Any:
        """Return its prompt."""
        return await self.__tappass_agent__.get_prompt(run_context)

    def clone(self, **changed: Any) -> Any:
        """Return a clone of the user's agent, which is governed when a governed run meets it."""
        return self.__tappass_agent__.clone(**changed)

    def as_tool(self, *args: Any, **kwargs: Any) -> Any:
        """Return the user's agent as a tool."""
        return self.__tappass_agent__.as_tool(*args, **kwargs)

    def _handoff(self, item: Any) -> Any:
        return _governed_handoff(self.__tappass_run__, self, item)


@lru_cache(maxsize=64)
def _seen_class(kind: type) -> Any:
    # `__eq__` of a dataclass wants the very same class on both sides: two views of one agent would not be equal.
    def same(self: Any, other: Any) -> bool:
        return original(self) is original(other)

    body = {
        "__slots__": ("__tappass_agent__", "__tappass_run__"),
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__eq__": same,
        "__hash__": None,
    }
    return type(kind.__name__, (_Seen, kind), body)


def original(agent: Any) -> Any:
    """Return the user's agent behind a governed one, or the user's tool; anything else as it is."""
    if isinstance(agent, Guarded):
        agent = agent.__wrapped__
    return tools.plain(agent.__tappass_agent__ if isinstance(agent, _Seen) else agent)


def begins(agent: Any) -> bool:
    """Tell whether this is the governed agent of a run that is about to begin: it is governed already."""
    run: Run | None = agent.__tappass_run__ if isinstance(agent, _Seen) else None
    return run is not None and run is current_run() and not run.begun


def governed(run: Run, agent: Any) -> Any:
    """Return an agent as a run sees it.

    Raises:
        TapPassConfigError: it is no agent of which every call can be governed.
    """
    return run.keep("agent", original(agent), lambda one: _seen(run, one))


def _seen(run: Run, agent: Any) -> Any:
    from agents import Agent

    if not isinstance(agent, Agent):
        raise TapPassConfigError(f"a run cannot be governed that starts with {type(agent).__name__}: it is no Agent")
    if any(kind.__name__ == "SandboxAgent" for kind in type(agent).__mro__):
        raise TapPassConfigError(
            f"the agent `{agent.name}` cannot be governed: what it runs in its sandbox is not seen"
        )
    own: Any = type(agent)
    kind = _seen_class(own)
    seen = object.__new__(kind)
    object.__setattr__(seen, "__tappass_run__", run)
    object.__setattr__(seen, "__tappass_agent__", agent)
    # One set of attributes for both: what hooks change on the one shows on the other, at once.
    object.__setattr__(seen, "__dict__", agent.__dict__)
    return seen


def _governed_handoff(run: Run, agent: Any, item: Any) -> Any:
    from agents import Handoff, handoff

    made = copy.copy(item) if isinstance(item, Handoff) else handoff(original(item))
    if (ref := getattr(made, "_agent_ref", None)) is not None and (target := ref()) is not None:
        made._agent_ref = weakref.ref(governed(run, target))
    inner, message = made.on_invoke_handoff, made.get_transfer_message
    definition = ToolDefinition(
        name=made.tool_name,
        description=made.tool_description,
        parameters=dict(made.input_json_schema),
        arguments=tuple(made.input_json_schema.get("properties", {})),
    )
    told: list[str] = []

    async def on_invoke_handoff(context: Any, text: str | None = None) -> Any:
        read = tools.arguments_of(text or "", made.input_json_schema)
        call = Interception(made.tool_name, read, definition=definition, session=run.session)
        try:
            arguments = await call.abefore()
        except TapPassError as error:
            told.append(call.refused(error))
            return agent
        try:
            with run.active():
                other = await inner(context, tools.text_of(arguments, text or "", read) if text else text)
        except BaseException as error:
            await call.aafter(error=error)
            raise
        await call.aafter(None)
        await run.hand_over(other.name)
        return governed(run, other)

    made.on_invoke_handoff = on_invoke_handoff
    made.get_transfer_message = lambda other: told.pop() if told else message(other)
    return made


class _NoHooks:
    """Stands for hooks where the user has none: ours look at every tool all the same."""


NO_HOOKS = _NoHooks()


def seeing_originals(hooks: Any, base: str) -> Any:
    """Return hooks of the same kind by which the user's own fire, with the user's own agents and tools."""
    if hooks is None:
        return None
    seeing = _hooks_class(base)()
    seeing.inner = hooks
    return seeing


@lru_cache(maxsize=2)
def _hooks_class(base: str) -> Any:
    import agents.lifecycle

    kind = getattr(agents.lifecycle, base)

    def hook(name: str) -> Any:
        async def called(self: Any, *args: Any, **kwargs: Any) -> Any:
            _only_governed(name, args)
            given = {key: original(value) for key, value in kwargs.items()}
            if self.inner is not NO_HOOKS:
                await getattr(self.inner, name)(*map(original, args), **given)

        called.__name__ = name
        return called

    body = {name: hook(name) for name in dir(kind) if name.startswith("on_")}
    return type("GovernedHooks", (kind,), {"inner": NO_HOOKS, **body})


def _only_governed(name: str, args: tuple[Any, ...]) -> None:
    """Stop a run whose next tool nobody has governed, whatever way it came by it."""
    if name == "on_tool_start" and current_run() is not None and tools.gate_of(args[-1]) is None:
        raise TapPassConfigError(f"the tool `{getattr(args[-1], 'name', '')}` is about to run ungoverned; nothing ran")
