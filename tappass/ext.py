"""The surface that adapters are written on; an adapter imports nothing else of tappass.

A `Guard` is a unit of work around a framework's entrypoint. Inside it, calls are governed in one of four ways:

| the framework                                   | use                                                        |
| ----------------------------------------------- | ---------------------------------------------------------- |
| calls a callable that the adapter may replace   | `govern_callable`                                          |
| runs a tool object that the adapter may rebuild | a `Gate` around what runs it, from a `Governing`           |
| runs tool or model itself, between two hooks    | `Interception` (a tool), `ModelCall`, `ModelStream`        |
| leaves the call to the adapter                  | `acall`                                                    |

A delegated agent or a sub-graph is a `Child` session beneath the guard's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tappass.around import title
from tappass.carriers import EXTENSION, METADATA, token_in
from tappass.children import Child
from tappass.decorators import govern_callable
from tappass.enforcement.projection import Encoders
from tappass.enforcement.verdicts import printable
from tappass.executions import Executions, derived_id, step_of
from tappass.extras import missing
from tappass.gates import Gate, Governing, by_name
from tappass.guards import Guard, Guarded, GuardOptions, current_guard, guarding
from tappass.interception import Interception, ModelCall, irreplaceable, tell
from tappass.model_streams import ModelStream
from tappass.peers import Joining
from tappass.problems import MEDIA_TYPE, Answer, answer_to
from tappass.scopes import UnitOfWork, opening_of
from tappass.sending import acall, outermost
from tappass.session.context import Entered, carry, current_session
from tappass.session.session import Options, Session
from tappass.toolspec import MARK, is_claimed, sha256, source_digest
from tappass.wire.codec import canonical
from tappass.wire.decisions import ToolDefinition
from tappass.wire.service import CORRELATION, RESUME
from tappass.wire.sessions import Opening


def unit(
    name: str,
    kind: str,
    *,
    url: str | None = None,
    api_key: str | None = None,
    agent: str = "",
    metadata: Mapping[str, Any] | None = None,
    options: Options | None = None,
) -> UnitOfWork:
    """Return a unit of work that raises a swallowed refusal again when it ends.

    Args:
        name: what the session is called, as the framework names the run.
        kind: the framework's word for it: `crew`, `graph`, `run`, `request`.
        url: the plane, if not the active session's; `api_key` goes to no other.
        api_key: the key for that url.
        agent: who acts.
        metadata: JSON values kept beside the log.
        options: what the guard's caller asked for.
    """
    opening = opening_of(name=name, kind=kind, agent=agent, metadata=metadata)
    return UnitOfWork(opening, url=url, api_key=api_key, options=options, reraise=True)


__all__ = [
    "Answer",
    "CORRELATION",
    "Child",
    "EXTENSION",
    "Encoders",
    "Entered",
    "Executions",
    "Gate",
    "Governing",
    "Guard",
    "GuardOptions",
    "Guarded",
    "Interception",
    "Joining",
    "MARK",
    "MEDIA_TYPE",
    "METADATA",
    "ModelCall",
    "ModelStream",
    "Opening",
    "Options",
    "RESUME",
    "Session",
    "ToolDefinition",
    "UnitOfWork",
    "acall",
    "answer_to",
    "by_name",
    "canonical",
    "carry",
    "current_guard",
    "current_session",
    "derived_id",
    "govern_callable",
    "guarding",
    "irreplaceable",
    "is_claimed",
    "missing",
    "opening_of",
    "outermost",
    "printable",
    "sha256",
    "source_digest",
    "step_of",
    "tell",
    "title",
    "token_in",
    "unit",
]
