"""What policy is asked about a call, and what it answers."""

from __future__ import annotations

from typing import Any

import msgspec

from tappass.wire.decisions import ALLOW, RuleMatch
from tappass.wire.findings import Finding
from tappass.wire.obligations import ScanResult

TOOL, LLM = "tool", "llm"
_NOTHING: frozenset[str] = frozenset()


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a rule may read about one call.

    Attributes:
        kind: `tool` or `llm`.
        name: the tool's or the model's.
        server: the MCP server that offers the tool, "" if none does.
        arguments: JSON types by name.
        sessions_around: the names of the sessions around it, the nearest first.
        now_ns: nanoseconds since 1970, UTC.
        budget: what is spent, as `session.usd`; what is not there makes a rule that reads it block.
        findings: what was seen in the arguments; `where` starts with the argument's name.
    """

    kind: str
    name: str
    arguments: dict[str, Any]
    server: str = ""
    agent_name: str = ""
    agent_tier: str = ""
    agent_uuid: str = ""
    agent_framework: str = ""
    session_id: str = ""
    session_name: str = ""
    sessions_around: tuple[str, ...] = ()
    session_mode: str = ""
    session_metadata: dict[str, Any] = {}
    session_implicit: bool = False
    now_ns: int = 0
    budget: dict[str, Any] = {}
    findings: tuple[Finding, ...] = ()


class ApprovalTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What people are asked for: how many of them, for how long (0: as the settings say), with which words."""

    approvers: int = 1
    expires_in_s: int = 0
    message: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What policy says of one call.

    Attributes:
        outcome: allow, block, require_tier or require_approval.
        blocked_by: the rule or setting that decided, "" for allow.
        matches: all rules and settings that matched, sorted by id; a rule whose condition failed has effect `failed`.
        reason: one sentence without payload, "" for allow.
        approval: the terms that all matching approval rules add up to, whatever the outcome.
        scan: what its result is under.
        redact: kinds and categories to redact in all arguments.
        redact_in: the same for single arguments, by name.
    """

    outcome: str = ALLOW
    reason: str = ""
    blocked_by: str = ""
    classification: str = ""
    matches: tuple[RuleMatch, ...] = ()
    required_tier: str = ""
    approval: ApprovalTerms | None = None
    scan: ScanResult | None = None
    redact: frozenset[str] = _NOTHING
    redact_in: dict[str, frozenset[str]] = {}

    def redacts(self, finding: Finding) -> bool:
        """Return whether the spot of a finding in the arguments is to be redacted."""
        kinds = self.redact
        if self.redact_in:
            kinds = kinds | self.redact_in.get(argument_of(finding.where), _NOTHING)
        return finding.kind in kinds or finding.category in kinds


def argument_of(where: str) -> str:
    """Return the argument that a JSON pointer leads into."""
    first = where[1:].partition("/")[0].removesuffix("~key")
    return first.replace("~1", "/").replace("~0", "~")
