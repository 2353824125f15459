"""Temporal: `@governed_workflow` and `TapPassPlugin`. A workflow's sandbox may import this: it loads no plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tappass.extras import missing

try:
    import temporalio  # noqa: F401
except ImportError as error:
    raise missing("temporal", "@governed_workflow") from error

from tappass_adapters.temporal.marking import governed_workflow

if TYPE_CHECKING:
    from tappass_adapters.temporal.plugin import TapPassPlugin


def __getattr__(name: str) -> Any:
    if name != "TapPassPlugin":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tappass_adapters.temporal.plugin import TapPassPlugin

    return TapPassPlugin


__all__ = ["TapPassPlugin", "governed_workflow"]
