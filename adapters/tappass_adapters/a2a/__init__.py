"""The Agent2Agent protocol, by a2a-sdk: the session goes along with a message, and the agent's work runs beneath it."""

from __future__ import annotations

try:
    from tappass_adapters.a2a.calling import CorrelationInterceptor
    from tappass_adapters.a2a.declaring import correlation_extension, with_extension
    from tappass_adapters.a2a.serving import CorrelationContextBuilder, JoiningExecutor
except ImportError as error:
    from tappass.ext import missing

    raise missing("a2a", "tappass_adapters.a2a") from error

__all__ = [
    "CorrelationContextBuilder",
    "CorrelationInterceptor",
    "JoiningExecutor",
    "correlation_extension",
    "with_extension",
]
