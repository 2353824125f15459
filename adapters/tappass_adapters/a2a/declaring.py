"""The extension, as an agent's card declares it (A2A 1.0, section 4.6)."""

from __future__ import annotations

import copy
from typing import Any

from a2a.types import AgentExtension

from tappass.ext import EXTENSION


def correlation_extension(*, required: bool = False) -> Any:
    """Return the extension for `AgentCapabilities.extensions`.

    Args:
        required: the agent refuses messages that bring no token.
    """
    return AgentExtension(
        uri=EXTENSION,
        description="Messages may bring a tappass-correlation token, which places the agent's work in their session.",
        required=required,
    )


def with_extension(card: Any, *, required: bool = False) -> Any:
    """Return a copy of an agent's card that declares the extension.

    Args:
        card: an `AgentCard`.
        required: as in `correlation_extension`.
    """
    twin = copy.deepcopy(card)
    if not declares(twin):
        twin.capabilities.extensions.append(correlation_extension(required=required))
    return twin


def declares(card: Any) -> bool:
    """Tell whether an agent's card declares the extension."""
    return any(extension.uri == EXTENSION for extension in card.capabilities.extensions)
