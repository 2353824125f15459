"""The question before a call and the answer to it (OpenID AuthZEN 1.0: action, subject, resource, context)."""

from __future__ import annotations

from typing import Any

import msgspec

from tappass.wire.correlation import Correlation
from tappass.wire.findings import Finding
from tappass.wire.obligations import Obligation
from tappass.wire.refusals import BreakGlass, Refusal

ALLOW, BLOCK, NEEDS_APPROVAL = "allow", "block", "needs_approval"


class ToolDefinition(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A tool's whole definition: what a pin is made of.

    `parameters` is a JSON schema, `arguments` the names policy may read (in order), `source_digest` the SHA-256 of a
    Python tool's source, `package` where its code is, `server` the MCP server that offers it, `listed` what else that
    server lists of it (title, output schema, annotations, …; Model Context Protocol, `Tool`).
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    arguments: tuple[str, ...] = ()
    open_arguments: bool = False
    source_digest: str = ""
    package: str = ""
    server: str = ""
    min_tier: str = ""
    # Left out, not null: digests of tools that have none stay what they were.
    listed: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Action(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was intercepted and is about to happen.

    `kind` is `tool` or `llm`; `name` the tool's or the model's. `arguments` are JSON types by name, defaults filled;
    `types` names, by JSON pointer, every value that was projected from a richer type (`{"/when": "datetime"}`).
    """

    kind: str
    name: str
    arguments: dict[str, Any]
    types: dict[str, str] = {}
    server: str = ""
    definition_digest: str = ""


class DecisionRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """May this run? `task_id` is minted by the asker, so that a repeated question is recognised.

    `definition` comes along until the plane has seen its digest. `resume_token` redeems an approval.
    `traceparent` is the W3C trace context of the caller. `doubt` is what the asker itself saw against the tool:
    `renamed` or `text` want a person's word, anything else (`unlisted`, `shadowed`) is refused.
    """

    action: Action
    session_id: str
    task_id: str
    capabilities: tuple[str, ...] = ()
    definition: ToolDefinition | None = None
    resume_token: str = ""
    traceparent: str = ""
    doubt: str = ""


class RuleMatch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A rule that matched, and where it is written (`policy.yaml:8`)."""

    id: str
    effect: str = ""
    source: str = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer: `allow`, `block` or `needs_approval`; anything else is treated as a block.

    `refusal` is set unless the outcome is allow. `would_be` is the outcome that `observe` or break-glass relaxed.
    `rules` are sorted by id.
    """

    outcome: str
    correlation: Correlation
    reason: str = ""
    refusal: Refusal | None = None
    rules: tuple[RuleMatch, ...] = ()
    obligations: tuple[Obligation, ...] = ()
    findings: tuple[Finding, ...] = ()
    would_be: str = ""
    break_glass: BreakGlass | None = None
    decided_at: str = ""
