"""Numbers for Prometheus: requests by route, how long they took, decisions by outcome.

With several workers every one writes its numbers to files in `PROMETHEUS_MULTIPROC_DIR`, which `tappass serve` makes,
and whichever is asked adds them up; with one they are in its memory, beside those of the process itself.
"""

from __future__ import annotations

import os

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = CONTENT_TYPE_LATEST

_requests = Counter("tappass_requests_total", "Requests answered.", ["method", "route", "status"])
_seconds = Histogram(
    "tappass_request_seconds",
    "How long requests took.",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0),
)
_decisions = Counter("tappass_decisions_total", "Decisions given.", ["outcome"])

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


def served(method: str, route: str, status: int, seconds: float) -> None:
    """Count a request."""
    # A client may send any word as a method; each would be a series for ever.
    _requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
    _seconds.labels(route).observe(seconds)


def decided(outcome: str) -> None:
    """Count a decision."""
    _decisions.labels(outcome).inc()


def text() -> bytes:
    """Return all numbers as Prometheus reads them."""
    if DIRECTORY not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
