"""The model of ADK that tries others, where this version has it."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.environments import here


def fallback_model() -> Any:
    """Return ADK's FallbackModel; skips where the oldest supported version has none."""
    try:
        from google.adk.models._fallback_model import FallbackModel
    except ImportError:
        environment = here()
        assert environment is None or environment.oldest
        pytest.skip("this version of ADK has no FallbackModel")
    return FallbackModel
