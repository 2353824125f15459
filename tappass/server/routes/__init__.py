"""What is served, one module a resource; each names its routes in `ROUTES`."""

from __future__ import annotations

from typing import Any

from tappass.server.routes import (
    access,
    agents,
    approvals,
    audit,
    chat,
    correlation,
    endings,
    events,
    govern,
    health,
    keys,
    sessions,
)

HANDLERS: list[Any] = [
    *access.ROUTES,
    *agents.ROUTES,
    *approvals.ROUTES,
    *audit.ROUTES,
    *chat.ROUTES,
    *correlation.ROUTES,
    *endings.ROUTES,
    *events.ROUTES,
    *govern.ROUTES,
    *health.ROUTES,
    *keys.ROUTES,
    *sessions.ROUTES,
]
