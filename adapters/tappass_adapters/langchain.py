"""LangChain and LangGraph: `guard_agent` around an AgentExecutor, a `create_agent`, any graph or Runnable."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Unpack

from tappass import ApprovalRequired, TapPassConfigError
from tappass.ext import Child, Entered, Gate, Governing, Guard, GuardOptions, Session, guarding, missing, title

try:
    from langchain_core.runnables import Runnable, RunnableSequence, RunnableWithFallbacks
    from langchain_core.runnables.base import RunnableBindingBase
    from langchain_core.runnables.config import var_child_runnable_config
except ImportError as error:
    raise missing("langchain", "guard_agent()") from error

from tappass_adapters.langchain_callbacks import GuardCallbacks, handler
from tappass_adapters.langchain_pauses import Pauses, call_here, graph_in, resumed
from tappass_adapters.langchain_tools import govern_tool

_ENTRYPOINTS = frozenset(
    {
        *("invoke", "stream", "batch", "batch_as_completed", "transform", "stream_events", "run", "__call__", "iter"),
        *("ainvoke", "astream", "abatch", "abatch_as_completed", "atransform", "astream_events", "astream_log"),
        *("arun", "apply", "aapply", "acall"),
    }
)
# What an entrypoint gives back before it runs anything.
_LATER = frozenset({"AgentExecutorIterator", "GraphRunStream", "AsyncGraphRunStream"})


class AgentGuard(Guard[Any]):
    """A guard of one run of an agent executor or a graph."""

    guard = "guard_agent"
    kind = "graph"
    entrypoints = _ENTRYPOINTS

    def __init__(self, target: Any, asked: Any, entry: Any = None) -> None:
        super().__init__(target, asked, entry)
        self._handler = GuardCallbacks(self)
        self._sub_graphs: dict[str, Session] = {}
        self._opening_lock = threading.RLock()
        self._pauses = False
        self.pauses = Pauses(self)

    def titled(self) -> str:
        """Return the graph's or executor's own name, where it has one."""
        named = self.target if self.target is not None else getattr(self.entry, "__self__", None)
        own = named.get_name() if isinstance(named, Runnable) else ""
        return own or super().titled()

    @contextlib.contextmanager
    def hooks(self) -> Iterator[None]:
        """Have LangChain add our handler to every run that begins here."""
        before = handler.get()
        handler.set(self._handler)
        try:
            yield
        finally:
            handler.set(before)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Hand in copies whose tools are governed: only those can be given other arguments, and other results."""
        self._pauses = self._pauses or any(getattr(graph_in(arg), "checkpointer", None) for arg in args)
        if self._resumed:
            # Each call goes on by its own token; another that needs people to agree asks anew.
            self.session.resume_token = ""
        return tuple(self._governed(arg) for arg in args), {name: self._governed(arg) for name, arg in kwargs.items()}

    def _governed(self, what: Any) -> Any:
        if isinstance(what, RunnableBindingBase):
            return what.model_copy(update={"bound": self._governed(what.bound)})
        if isinstance(what, RunnableWithFallbacks):
            fallbacks = [self._governed(one) for one in what.fallbacks]
            return what.model_copy(update={"runnable": self._governed(what.runnable), "fallbacks": fallbacks})
        if isinstance(what, RunnableSequence):
            first, *middle, last = [self._governed(step) for step in what.steps]
            return what.model_copy(update={"first": first, "middle": middle, "last": last})
        # Of its class: some Runnables answer for what they wrap.
        if hasattr(type(what), "get_state") and isinstance(nodes := getattr(what, "nodes", None), dict):
            return what.copy({"nodes": {name: self._node(node) for name, node in nodes.items()}})
        if isinstance(what, Runnable) and hasattr(what, "agent") and isinstance(getattr(what, "tools", None), list):
            return what.model_copy(update={"tools": [self._tool(tool) for tool in what.tools]})
        if type(what).__name__ == "RemoteGraph":
            raise TapPassConfigError(
                f"the graph `{what.name}` runs elsewhere, where its calls are not seen; guard it there"
            )
        return what

    def _node(self, node: Any) -> Any:
        bound: Any = getattr(node, "bound", None)
        if isinstance(tools := getattr(bound, "tools_by_name", None), dict):
            twin = copy.copy(bound)
            twin._tools_by_name = {name: self._tool(tool) for name, tool in tools.items()}
            # What a ToolNode runs are its own methods, bound to the original.
            twin.func, twin.afunc = twin._func, twin._afunc
        elif (twin := self._governed(bound)) is bound:
            return node
        return node.copy({"bound": twin})

    def _tool(self, tool: Any) -> Any:
        return govern_tool(tool, Governing(session=self._session), within=self)

    def deliver(self, result: Any) -> Any:
        """Return a result; of a run that has yet to be iterated over, only inside a block.

        Raises:
            TapPassConfigError: the session would be closed before that run begins.
        """
        if self.entry is not None and type(result).__name__ in _LATER:
            raise TapPassConfigError(
                f"a decorated {title(self.entry)}() gives back a {type(result).__name__}, which runs after its session "
                f"was closed; enter the guard instead: `with {self.guard}(...) as guarded`"
            )
        return super().deliver(result)

    # Where a call belongs.

    def session_at(self, metadata: dict[str, Any] | None) -> Session:
        """Return the session for a call: the unit's, or that of the sub-graph in which it is made."""
        path = str((metadata or {}).get("langgraph_checkpoint_ns") or "").split("|")[:-1]
        if not path:
            return self.session
        where = "|".join(path)
        # Its tools may run in parallel threads; it has one session.
        with self._opening_lock:
            if where not in self._sub_graphs:
                name = str((metadata or {}).get("lc_agent_name") or path[-1].partition(":")[0])
                child = Child(self.session_at({"langgraph_checkpoint_ns": where}), name, "graph")
                self._sub_graphs[where] = child.open()
                self.inner.append(child)
            return self._sub_graphs[where]

    # Tools, from their gates.

    def run_tool(self, gate: Gate, function: Callable[..., Any], arguments: dict[str, Any], told: Any) -> Any:
        """Run a governed tool where it belongs; where it waits for people, pause the graph."""
        call = call_here(gate.name, arguments) if self._pauses else ""
        token, times = self.pauses.go_on(call)
        while True:
            try:
                with self._placed():
                    return gate.run(function, arguments, told, token)
            except ApprovalRequired as error:
                token, times = self._interrupted(error, call, times)

    async def arun_tool(
        self, gate: Gate, function: Callable[..., Awaitable[Any]], arguments: dict[str, Any], told: Any
    ) -> Any:
        """Run a governed tool. The async twin of `run_tool`."""
        call = call_here(gate.name, arguments) if self._pauses else ""
        token, times = self.pauses.go_on(call)
        while True:
            try:
                with self._placed():
                    return await gate.arun(function, arguments, told, token)
            except ApprovalRequired as error:
                token, times = self._interrupted(error, call, times)

    @contextlib.contextmanager
    def _placed(self) -> Iterator[None]:
        config = var_child_runnable_config.get() or {}
        with Entered(self.session_at(config.get("metadata"))):
            yield

    def _interrupted(self, error: ApprovalRequired, call: str, times: int) -> tuple[str, int]:
        """Pause the graph, or raise where it has no checkpointer; returns where it is being resumed."""
        if not call or error.ran:
            raise error
        self.pauses.interrupt(error, call, times + 1)
        return error.resume_token, times + 1

    def waits_for(self, error: ApprovalRequired) -> bool:
        """Tell whether a graph is paused for this approval."""
        return error.resume_token in self._paused

    def resumes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the token in the checkpoint that a graph is resumed from."""
        graph, config = resumed(args, kwargs)
        return "" if graph is None else self.pauses.find(graph.get_state(config))

    async def aresumes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the token in the checkpoint that a graph is resumed from."""
        graph, config = resumed(args, kwargs)
        return "" if graph is None else self.pauses.find(await graph.aget_state(config))


def guard_agent(target: Any = None, /, **asked: Unpack[GuardOptions]) -> Any:
    """Guard the runs of an agent executor, a graph or any Runnable: a decorator factory, and a context.

        invoke = guard_agent(url=..., api_key=...)(executor.invoke)
        with guard_agent(graph) as guarded:
            guarded.invoke({"messages": [("user", "pay the invoice")]})

    Every tool call is decided before it runs and settled after, every model call is decided and recorded. A graph with
    a checkpointer is interrupted where people must be asked, and goes on with `Command(resume=...)`.

    Args:
        target: the executor, graph or Runnable to be entered; nothing for a decorator.
        asked: see `GuardOptions`.

    Raises:
        TapPassConfigError: an option is unknown, or the extra `langchain` is not installed.
    """
    return guarding(AgentGuard, target, asked)


# One object serves both; the second name says at the call which one is meant.
guard_agent_async = guard_agent
