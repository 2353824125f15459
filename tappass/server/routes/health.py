"""`GET /health`: that the server is there, and what it is. `GET /ready`: that it can keep its record."""

from __future__ import annotations

import time

from litestar import get

from tappass.engine.hopping import hop
from tappass.server.auth import PUBLIC
from tappass.server.house import House
from tappass.wire.service import Health
from tappass.wire.version import VERSION


@get("/health", opt={"scope": PUBLIC}, summary="Whether the server is there, and which it is")
async def health(house: House) -> Health:
    """Return the server's version and state; asks for no key and tells nothing that is anybody's."""
    agents = await hop(House.count_agents, house)
    return Health(
        status="ok",
        version=version(),
        storage=house.storage,
        agents=agents,
        uptime_seconds=round(time.monotonic() - house.started_at, 3),
    )


def version() -> str:
    """Return three integers with dots, whatever else this version is called."""
    return ".".join((*VERSION.split("."), "0", "0")[:3])


ROUTES = [health]
