"""`guard_adk_agent`: the guard itself."""

from __future__ import annotations

import inspect
import types
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from google.adk import runners
from google.adk.agents.base_agent import BaseAgent
from google.adk.apps.app import App
from google.adk.plugins.plugin_manager import PluginManager
from google.adk.runners import InMemoryRunner, Runner
from google.adk.workflow import BaseNode

from tappass.errors import TapPassConfigError, TapPassError
from tappass.ext import Guard, Session
from tappass_adapters.adk import nodes
from tappass_adapters.adk.agents import Agents
from tappass_adapters.adk.live import Live
from tappass_adapters.adk.models import Models
from tappass_adapters.adk.plugin import attach, attaching, carrying, refuse_namesake
from tappass_adapters.adk.resuming import answered, awaited_token, token_awaited
from tappass_adapters.adk.summaries import Summaries
from tappass_adapters.adk.tools import Tools
from tappass_adapters.arming import arm

ENTRYPOINTS = frozenset({"run", "run_async", "run_live", "run_debug"})


class AdkGuard(Guard[Any]):
    """A guard around a run of Google ADK."""

    guard = "guard_adk_agent"
    kind = "run"
    entrypoints = ENTRYPOINTS

    def __init__(self, target: Any, asked: Mapping[str, Any], entry: Any = None) -> None:
        self.runner: Runner | None = None
        self.root = ""
        self.roots: set[str] = set()
        self._undo: list[Callable[[], None]] = []
        super().__init__(None if target is None else _runner(target), asked, entry)
        self.agents, self.tools, self.models, self.live = Agents(self), Tools(self), Models(self), Live(self)
        self.summaries = Summaries(self)
        for found in (self.target, getattr(entry, "__self__", None)):
            self._meet(found)

    def titled(self) -> str:
        """Return the root agent's name."""
        runner = self.target if self.target is not None else getattr(self.entry, "__self__", None)
        return runner.agent.name if isinstance(runner, Runner) else super().titled()

    # The framework's objects.

    def _meet(self, found: Any) -> None:
        """Note the runner whose root agent has the guard's own session: the first that is met."""
        if isinstance(found, Runner) and self.runner is None:
            refuse_namesake(found.plugin_manager)
            self.runner, self.root = found, found.agent.name

    def begins(self, invocation: Any) -> None:
        """Note a run of the guarded runner, as against one of an agent that is a tool."""
        if self.runner is not None and invocation.session_service is self.runner.session_service:
            self.roots.add(invocation.invocation_id)

    def attach(self, manager: PluginManager) -> None:
        """Have a plugin manager call us until the unit ends."""
        if (undo := attach(manager)) is not None:
            self._undo.append(undo)

    def arm(self, owner: Any, name: str, around: Callable[[Any], Any]) -> None:
        """Replace a method until the unit ends."""
        self._undo.append(arm(owner, name, around))

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Stand in every runner among the arguments; those made inside the run get us when they are made."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, Runner):
                self._meet(value)
                self.attach(value.plugin_manager)
        return args, kwargs

    # The unit.

    def _wrapped(self, function: Any) -> Any:
        _refuse_agent(function)
        return super()._wrapped(function)

    def resumes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the token of the approval that a run goes on from: such a run is in the session that it paused in.

        An entered guard has a session already; there each call finds its own approval.
        """
        return awaited_token(args[0], kwargs) if self._goes_on(args, kwargs) else ""

    async def aresumes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return that token. The async twin of `resumes`."""
        return await token_awaited(args[0], kwargs) if self._goes_on(args, kwargs) else ""

    def _goes_on(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return self.target is None and bool(args) and isinstance(args[0], Runner) and bool(answered(kwargs))

    def _opened(self, record: Any, plane: Any, options: Any) -> Session:
        session = super()._opened(record, plane, options)
        # A token belongs to one call, not to the session: a run may go on from several.
        session.resume_token = "" if self._resumed else session.resume_token
        if self.runner is not None:
            self.attach(self.runner.plugin_manager)
        self.arm(PluginManager, "__init__", attaching)
        self.arm(runners, "create_thread", carrying)
        if nodes.ToolNode is not None:
            self.arm(nodes.ToolNode, nodes.WAY, nodes.around)
        return session

    def _closing(self, error: BaseException | None) -> tuple[str, BaseException | None]:
        undo, self._undo = self._undo[::-1], []
        for put_back in undo:
            put_back()
        self.models.forget()
        return super()._closing(error)

    def close(self, error: BaseException | None = None) -> None:
        """Close the agents' sessions, then the run's."""
        if not self._stays(error):
            self.agents.close(error)
            super(Guard, self).close(error)

    async def aclose(self, error: BaseException | None = None) -> None:
        """Close the agents' sessions, then the run's."""
        if not self._stays(error):
            await self.agents.aclose(error)
            await super(Guard, self).aclose(error)

    # What comes out: our errors as they were, whatever ADK wraps them in.

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an entrypoint."""
        result = super().call(function, args, kwargs)
        if inspect.isgenerator(result):
            return _unwrapping(result)
        return _aunwrapping(result, self.live) if inspect.isasyncgen(result) else result

    async def _awaited(self, awaitable: Any) -> Any:
        try:
            return await super()._awaited(awaitable)
        except Exception as error:
            raise ours(error) from None


def ours(error: BaseException) -> BaseException:
    """Return our error inside one of ADK's, else the error itself."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, TapPassError):
            return found
        if isinstance(found, BaseExceptionGroup):
            return next((inner for e in found.exceptions if isinstance(inner := ours(e), TapPassError)), error)
        found = found.__cause__
    return error


def _unwrapping(source: Iterator[Any]) -> Iterator[Any]:
    try:
        return (yield from source)
    except Exception as error:
        raise ours(error) from None


async def _aunwrapping(source: AsyncIterator[Any], live: Live) -> AsyncIterator[Any]:
    try:
        async for item in source:
            live.check()
            yield item
    except Exception as error:
        raise ours(error) from None
    finally:
        if (aclose := getattr(source, "aclose", None)) is not None:
            await aclose()


def _runner(target: Any) -> Any:
    """Return what is entered: a runner, one in memory around what is none.

    Raises:
        TapPassConfigError: this runs nothing.
    """
    if isinstance(target, Runner):
        return target
    if isinstance(target, App):
        return _made(InMemoryRunner(app=target))
    if isinstance(target, BaseAgent):
        return _made(InMemoryRunner(agent=target, app_name=target.name))
    if isinstance(target, BaseNode):
        return _made(InMemoryRunner(node=target, app_name=target.name))
    raise TapPassConfigError(
        f"guard_adk_agent() takes a Runner, an App, an agent or a workflow, not a {type(target).__name__}; "
        "or it decorates a runner's method, or a function that runs one"
    )


def _made(runner: InMemoryRunner) -> InMemoryRunner:
    # Nobody but its user's first run could create a session in it.
    runner.auto_create_session = True
    return runner


def _refuse_agent(entry: Any) -> None:
    if isinstance(entry, types.MethodType) and isinstance(entry.__self__, BaseAgent):
        agent = entry.__self__
        raise TapPassConfigError(
            f"{agent.name}.{entry.__name__}() is how ADK runs an agent inside a runner; decorate a runner's run or "
            "run_async, or enter it: `with guard_adk_agent(agent) as guarded: guarded.run(...)`"
        )
