"""What a row of the conformance table is: one way of running one framework under its guard.

A module `rows_<framework>.py` beside this one lists its rows in `ROWS`; it is left out where its framework is not
installed. Each row runs the same promises (test_conformance.py) on its framework, over every plane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tappass import resume
from tests.adapters.scripted import ScriptedModel


@dataclass
class Job:
    """One unit of work to be run: its tools (Python functions), its model, and what the guard is asked for."""

    tools: tuple[Callable[..., Any], ...]
    model: ScriptedModel
    asked: dict[str, Any] = field(default_factory=dict)
    prompt: str = "do it"
    keep: dict[str, Any] = field(default_factory=dict)
    """For the row's own use: what a paused run goes on from."""

    def with_(self, **changed: Any) -> Job:
        return replace(self, **changed)


class Row:
    """One way of running one framework; derive from it.

    Attributes:
        name: how test ids call it: `langgraph-agent-stream`.
        models: `decided` (and recorded), `recorded` or "" where the framework's model calls are not seen.
        pauses: the framework pauses for an approval: `run` then ends without an error.
        parallel: the framework runs several tool calls of one turn.
        told: the model reads a refusal where the guard tells.
        redacts: a tool can be given other arguments; where it cannot, the call is refused.
        kind: the kind of session that a unit opens.
        around: the tool call that the unit itself is, decided beside those of its tools; "" where it is none.
    """

    name = ""
    models = "decided"
    pauses = False
    parallel = True
    told = True
    redacts = True
    kind = ""
    around = ""

    def run(self, job: Job) -> str:
        """Run the unit once, guarded with `job.asked`; return what the model said last.

        Errors of ours come out as they are.
        """
        raise NotImplementedError

    def resume(self, job: Job, token: str) -> str:
        """Go on after people have agreed; a framework that cannot pause runs anew inside `resume(token)`.

        The model's script has been set up for what is asked of it from there.
        """
        with resume(token):
            return self.run(job)

    def replays(self) -> bool:
        """Tell whether `resume` asks the model for the tool call again."""
        return not self.pauses

    def fingerprint(self, job: Job) -> Any:
        """Return something that shows whether the framework's object is as it was, None where there is nothing."""
        return None

    def __repr__(self) -> str:
        return self.name
