"""One run of the Agents SDK inside a guard: where it stands, and what was decided in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tappass.errors import ApprovalRequired, TapPassConfigError
from tappass.ext import Child, Entered, Gate, Governing, Session
from tappass_adapters.openai import tools
from tappass_adapters.openai.current import runs

if TYPE_CHECKING:
    from tappass_adapters.openai.guard import OpenAIGuard


class Run:
    """One run: of the agent it starts with in the guard's own session, of any other in a child session.

    Args:
        guard: the guard it runs in.
        session: where it begins: the guard's session, or the child session that a nested run has.
        tokens: the approvals that the run goes on from, by call id.
    """

    def __init__(self, guard: OpenAIGuard, session: Session, tokens: dict[str, str]) -> None:
        self.guard = guard
        self.session = self._base = session
        self._child: Child | None = None
        self.tokens = tokens
        self.paused: dict[str, ApprovalRequired] = {}
        self.begun = False
        self.answered: dict[tuple[str, str], tuple[dict[str, Any], tools.Decided]] = {}
        self._kept: dict[tuple[str, int], tuple[Any, Any]] = {}

    def keep(self, kind: str, original: Any, make: Any) -> Any:
        """Return what was made of an object before, or make it: one and the same for the whole run."""
        key = (kind, id(original))
        if key not in self._kept:
            self._kept[key] = (original, make(original))
        return self._kept[key][1]

    # Where it stands.

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make the run the current one, in the session where it stands."""
        before = runs.get()
        runs.set(self)
        try:
            with Entered(self.session):
                yield
        finally:
            runs.set(before)

    async def hand_over(self, name: str) -> None:
        """Go on in a child session of its own: another agent takes over."""
        await self.aleave(None)
        child = Child(self._base, name, "agent")
        self.session = await child.aopen()
        self._child = child

    async def aleave(self, error: BaseException | None) -> None:
        """Close the session of an agent that was handed over to."""
        if (child := self._left()) is not None:
            await child.aclose(error)

    def leave(self, error: BaseException | None) -> None:
        """Close the session of an agent that was handed over to. The sync twin of `aleave`."""
        if (child := self._left()) is not None:
            child.close(error)

    def _left(self) -> Child | None:
        child, self._child, self.session = self._child, None, self._base
        return child

    # Its tools.

    def tool(self, tool: Any) -> Any:
        """Return a tool in governed form.

        Raises:
            TapPassConfigError: it runs where nobody can decide its calls.
        """
        from agents import FunctionTool

        if not isinstance(tool, FunctionTool):
            error = TapPassConfigError(
                f"`{getattr(tool, 'name', type(tool).__name__)}` ({type(tool).__name__}) cannot be governed: its calls "
                "are not made by a function tool, so nobody can decide them before they run; take it from the agent, "
                "or run it from a function tool"
            )
            self.session.let_stand(error)
            raise error
        return self.keep("tool", tool, lambda one: tools.govern_tool(one, Governing(session=self._base)))

    async def foresee(self, offered: Iterable[Any], answer: Iterable[Any]) -> None:
        """Decide the calls of a model's answer, so that the SDK can pause for those that need people to agree."""
        known = {tools.named(tool): tool for tool in offered if tools.gate_of(tool) is not None}
        for item in answer:
            if getattr(item, "type", "") != "function_call":
                continue
            namespace = getattr(item, "namespace", None)
            tool = known.get(f"{namespace}.{item.name}" if namespace else item.name) or known.get(item.name)
            gate = tools.gate_of(tool)
            if tool is not None and gate is not None and item.call_id not in self.tokens:
                await self._foresee(tool, gate, item)

    async def _foresee(self, tool: Any, gate: Gate, item: Any) -> None:
        read = tools.arguments_of(item.arguments, gate.definition.parameters)
        call, decided = await tools.decide(gate.intercept(read, session=self.session))
        if isinstance(decided, ApprovalRequired):
            self.paused[item.call_id] = decided
            self.guard.pause(decided)
            self._pausing(tool)
        else:
            self.answered[item.call_id, gate.name] = (read, (call, decided))

    def _pausing(self, tool: Any) -> None:
        asked = tool.needs_approval
        if getattr(asked, "__tappass_asks__", False):
            return

        async def needs_approval(context: Any, arguments: dict[str, Any], call_id: str) -> bool:
            run = runs.get()
            if run is not None and (call_id in run.paused or call_id in run.tokens):
                return True
            return bool(await asked(context, arguments, call_id)) if callable(asked) else bool(asked)

        needs_approval.__tappass_asks__ = True  # type: ignore[attr-defined]
        tool.needs_approval = needs_approval

    async def decide(self, gate: Gate, call_id: str, read: dict[str, Any]) -> tools.Decided:
        """Return a call that is to be made now with what was decided of it, or decide it now."""
        known = self.answered.pop((call_id, gate.name), None)
        if known is not None and known[0] == read:
            return known[1]
        return await tools.decide(gate.intercept(read, session=self.session, resume_token=self.tokens.get(call_id, "")))
