"""What frameworks leave to the garbage collector is collected in the test that left it."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Iterator

import pytest

LONG_S = 0.05


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Google ADK warns of its own experimental parts; before 2.10 its sync `run` leaves errors on its thread."""
    for item in items:
        if "[adk-" in item.name:
            item.add_marker(pytest.mark.filterwarnings("ignore::UserWarning"))


@pytest.fixture(autouse=True)
def _connections_to_the_model_end_with_their_test(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if (job := request.node.funcargs.get("job")) is not None:
        job.keep.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        began = time.perf_counter()
        gc.collect()
        # What frameworks import at their first use stays, too: once it is much, it is walked no more.
        if time.perf_counter() - began > LONG_S:
            gc.freeze()
