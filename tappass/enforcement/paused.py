"""A flow in two halves, for frameworks that call a hook before a tool and another after it."""

from __future__ import annotations

from typing import Any

from tappass.enforcement.action import Call
from tappass.enforcement.drivers import aperform, perform
from tappass.enforcement.effects import Effect, Flow, Run
from tappass.enforcement.port import AsyncControlPlane, ControlPlane
from tappass.wire.endings import ABANDONED


class _Half:
    """What both drivers share: the flow, stopped where the call is to run."""

    def __init__(self, flow: Flow[Any], plane: Any, call: Call) -> None:
        self._flow = flow
        self._plane = plane
        self._call = call
        self._open = False

    def _step(self, value: Any, error: BaseException | None) -> Effect[Any]:
        return self._flow.throw(error) if error is not None else self._flow.send(value)

    def __del__(self) -> None:
        # The framework never called the second hook; only a queue may be touched here.
        if self._open:
            self._plane.abandon(self._call.ending(ABANDONED))


class PausedCall(_Half):
    """One governed call of a framework that runs the tool itself; sync hooks."""

    _plane: ControlPlane

    def start(self) -> Run:
        """Decide; return what may run, arguments bounded by obligations.

        Raises:
            GovernanceDecision: it may not; nothing ran.
        """
        effect = next(self._flow)
        while not isinstance(effect, Run):
            try:
                value, error = perform(effect, self._plane), None
            except BaseException as raised:
                value, error = None, raised
            effect = self._step(value, error)
        self._open = True
        return effect

    def finish(self, result: Any = None, error: BaseException | None = None) -> Any:
        """Settle with what the tool returned, or raised; return what may be seen of its result.

        Raises:
            GovernanceDecision: nothing of it may be seen.
            BaseException: the error given, as it was.
        """
        self._open = False
        try:
            effect = self._step(result, error)
            while True:
                try:
                    value, raised = perform(effect, self._plane), None
                except BaseException as failure:
                    value, raised = None, failure
                effect = self._step(value, raised)
        except StopIteration as stop:
            return stop.value
        except GeneratorExit:
            self._plane.abandon(self._call.ending(ABANDONED))
            raise


class AsyncPausedCall(_Half):
    """One governed call of a framework that runs the tool itself; async hooks."""

    _plane: AsyncControlPlane

    async def start(self) -> Run:
        """Decide; return what may run, arguments bounded by obligations.

        Raises:
            GovernanceDecision: it may not; nothing ran.
        """
        effect = next(self._flow)
        while not isinstance(effect, Run):
            try:
                value, error = await aperform(effect, self._plane), None
            except BaseException as raised:
                value, error = None, raised
            effect = self._step(value, error)
        self._open = True
        return effect

    async def finish(self, result: Any = None, error: BaseException | None = None) -> Any:
        """Settle with what the tool returned, or raised; return what may be seen of its result.

        Raises:
            GovernanceDecision: nothing of it may be seen.
            BaseException: the error given, as it was.
        """
        self._open = False
        try:
            effect = self._step(result, error)
            while True:
                try:
                    value, raised = await aperform(effect, self._plane), None
                except BaseException as failure:
                    value, raised = None, failure
                effect = self._step(value, raised)
        except StopIteration as stop:
            return stop.value
        except GeneratorExit:
            self._plane.abandon(self._call.ending(ABANDONED))
            raise
