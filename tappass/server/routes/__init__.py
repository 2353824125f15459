"""What is served, one module a resource; each names its routes in `ROUTES`."""

from __future__ import annotations

from typing import Any

from tappass.server.routes import agents, correlation, health, keys

HANDLERS: list[Any] = [*agents.ROUTES, *correlation.ROUTES, *health.ROUTES, *keys.ROUTES]
