"""tappass: runtime governance for AI agents.

Decorate functions and tools; from then on every call is decided by policy before it runs, held for a person where
policy says so, and recorded in a log that an outsider can verify.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tappass.wire.version import VERSION

if TYPE_CHECKING:
    from tappass_adapters.adk import guard_adk_agent, guard_adk_agent_async
    from tappass_adapters.crewai import guard_crew, guard_crew_async
    from tappass_adapters.fastapi import TapPassMiddleware, governed_action, governed_endpoint
    from tappass_adapters.langchain import guard_agent, guard_agent_async
    from tappass_adapters.mcp import TapPassMCPMiddleware, guard_mcp_client
    from tappass_adapters.openai import guard_openai_run, guard_openai_run_async
    from tappass_adapters.temporal import TapPassPlugin, governed_workflow

    from tappass.admin import AsyncTapPass, TapPass
    from tappass.agent import Agent, AsyncAgent
    from tappass.decorators import tool
    from tappass.errors import (
        ApprovalRequired,
        BreakGlassActive,
        GovernanceDecision,
        PolicyBlockError,
        RedactionApplied,
        TapPassConfigError,
        TapPassConnectionError,
        TapPassError,
        ToolIntegrityViolation,
        TrustTierDenied,
    )
    from tappass.govern import govern
    from tappass.peers import join_correlation, with_correlation, with_correlation_async
    from tappass.resuming import resume
    from tappass.scopes import governed, tappass_session, tappass_session_async
    from tappass.session.context import carry, current_session
    from tappass.session.session import Session
    from tappass.verify import CorrelationRefused
    from tappass.wire.chat import ChatChunk, ChatResponse
    from tappass.wire.correlation import Correlation
    from tappass.wire.events import AuditEvent

# Where each public name lives, an adapter's under its whole name; loaded when it is first asked for, so that
# `import tappass` stays light.
_HOMES = {
    "Agent": "agent",
    "ApprovalRequired": "errors",
    "AsyncAgent": "agent",
    "AsyncTapPass": "admin",
    "AuditEvent": "wire.events",
    "BreakGlassActive": "errors",
    "ChatChunk": "wire.chat",
    "ChatResponse": "wire.chat",
    "Correlation": "wire.correlation",
    "CorrelationRefused": "verify",
    "GovernanceDecision": "errors",
    "PolicyBlockError": "errors",
    "RedactionApplied": "errors",
    "Session": "session.session",
    "TapPass": "admin",
    "TapPassConfigError": "errors",
    "TapPassConnectionError": "errors",
    "TapPassError": "errors",
    "TapPassMCPMiddleware": "tappass_adapters.mcp",
    "TapPassMiddleware": "tappass_adapters.fastapi",
    "TapPassPlugin": "tappass_adapters.temporal",
    "ToolIntegrityViolation": "errors",
    "TrustTierDenied": "errors",
    "carry": "session.context",
    "current_session": "session.context",
    "govern": "govern",
    "governed": "scopes",
    "governed_action": "tappass_adapters.fastapi",
    "governed_endpoint": "tappass_adapters.fastapi",
    "governed_workflow": "tappass_adapters.temporal",
    "guard_adk_agent": "tappass_adapters.adk",
    "guard_adk_agent_async": "tappass_adapters.adk",
    "guard_agent": "tappass_adapters.langchain",
    "guard_agent_async": "tappass_adapters.langchain",
    "guard_crew": "tappass_adapters.crewai",
    "guard_crew_async": "tappass_adapters.crewai",
    "guard_mcp_client": "tappass_adapters.mcp",
    "guard_openai_run": "tappass_adapters.openai",
    "guard_openai_run_async": "tappass_adapters.openai",
    "join_correlation": "peers",
    "resume": "resuming",
    "tappass_session": "scopes",
    "tappass_session_async": "scopes",
    "tool": "decorators",
    "with_correlation": "peers",
    "with_correlation_async": "peers",
}

# The adapter that governs a framework's tool objects, by the class that they derive from.
_TOOL_ADAPTERS: dict[str, str] = {
    "crewai.tools.base_tool.BaseTool": "tappass_adapters.crewai.tools",
    "crewai.tools.structured_tool.CrewStructuredTool": "tappass_adapters.crewai.tools",
    "agents.tool.FunctionTool": "tappass_adapters.openai.tools",
    "google.adk.tools.base_tool.BaseTool": "tappass_adapters.adk_tools",
    "langchain_core.tools.base.BaseTool": "tappass_adapters.langchain_tools",
}

__version__ = VERSION


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tappass' has no attribute {name!r}")
    home = _HOMES[name]
    value = getattr(importlib.import_module(home if home.startswith("tappass_adapters") else f"tappass.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


__all__ = [
    "Agent",
    "ApprovalRequired",
    "AsyncAgent",
    "AsyncTapPass",
    "AuditEvent",
    "BreakGlassActive",
    "ChatChunk",
    "ChatResponse",
    "Correlation",
    "CorrelationRefused",
    "GovernanceDecision",
    "PolicyBlockError",
    "RedactionApplied",
    "Session",
    "TapPass",
    "TapPassConfigError",
    "TapPassConnectionError",
    "TapPassError",
    "TapPassMCPMiddleware",
    "TapPassMiddleware",
    "TapPassPlugin",
    "ToolIntegrityViolation",
    "TrustTierDenied",
    "carry",
    "current_session",
    "govern",
    "governed",
    "governed_action",
    "governed_endpoint",
    "governed_workflow",
    "guard_adk_agent",
    "guard_adk_agent_async",
    "guard_agent",
    "guard_agent_async",
    "guard_crew",
    "guard_crew_async",
    "guard_mcp_client",
    "guard_openai_run",
    "guard_openai_run_async",
    "join_correlation",
    "resume",
    "tappass_session",
    "tappass_session_async",
    "tool",
    "with_correlation",
    "with_correlation_async",
]
