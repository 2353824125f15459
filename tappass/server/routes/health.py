"""`/health`: that the server is there, and what it is. `/ready`: that it can keep its record. `/metrics`: numbers."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from litestar import MediaType, Response, get

from tappass.engine.credentials import ADMIN, AUDITOR
from tappass.engine.hopping import hop
from tappass.errors import TapPassConnectionError
from tappass.server import metrics
from tappass.server.auth import PUBLIC
from tappass.server.house import House
from tappass.wire.service import Health
from tappass.wire.version import VERSION


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `/ready`: the database was written to and read just now."""

    status: str


@get("/health", opt={"scope": PUBLIC}, summary="Whether the server is there, and which it is")
async def health(house: House) -> Health:
    """Return the server's version and state; asks for no key and tells nothing that is anybody's."""
    return await hop(_health, house)


@get("/ready", opt={"scope": PUBLIC}, summary="Whether the server can keep its record, so that calls may run")
async def ready(house: House) -> Ready:
    """Answer 503 while the database cannot be written to."""
    await hop(House.touch, house)
    return Ready(status="ready")


def _health(house: House) -> Health:
    try:
        status, agents, warnings = "ok", house.count_agents(), house.warnings()
    except TapPassConnectionError:
        # The server is there all the same: who restarts what does not answer would make it no better.
        status, agents, warnings = "degraded", 0, ("the database cannot be reached; calls are refused",)
    return Health(
        status=status,
        version=version(),
        storage=house.storage,
        agents=agents,
        uptime_seconds=round(time.monotonic() - house.started_at, 3),
        warnings=warnings,
    )


def version() -> str:
    """Return three integers with dots, whatever else this version is called."""
    return ".".join((*VERSION.split("."), "0", "0")[:3])


def metrics_route(who: str) -> list[Any]:
    """Return the route of `/metrics`, for admins and auditors, for everybody ("open"), or none ("off")."""
    if who == "off":
        return []

    @get(
        "/metrics",
        opt={"scope": PUBLIC if who == "open" else (ADMIN, AUDITOR)},
        media_type=MediaType.TEXT,
        summary="Numbers for Prometheus",
    )
    async def numbers() -> Response[bytes]:
        """Return counters and durations; no ids, no names."""
        return Response(await hop(lambda _: metrics.text(), None), headers={"Content-Type": metrics.CONTENT_TYPE})

    return [numbers]


ROUTES = [health, ready]
