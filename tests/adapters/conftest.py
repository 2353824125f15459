"""The tests of adapters run where their frameworks are: `scripts/test tests/adapters/test_mcp.py` finds the place.

Which module runs where, its name tells, see scripts/environments.py. In an environment that promises a framework its
tests are collected even if it cannot be imported, and so fail; only where nothing is promised does absence leave out.
"""

from __future__ import annotations

import gc
import os
import re
import warnings

import pytest

from scripts.environments import TESTS, all_modules, here, needs, promised

# Set before any framework is imported: what reports to its maker would wait for a network that is not there.
os.environ |= {
    "ANONYMIZED_TELEMETRY": "False",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "FASTMCP_CHECK_FOR_UPDATES": "off",
    "GOOGLE_GENAI_USE_VERTEXAI": "0",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OTEL_SDK_DISABLED": "true",
}

PROMISED = promised()
# Folders too: a conftest.py in one may import its framework.
FOLDERS = [path for path in TESTS.rglob("*") if path.is_dir() and needs(path)]
collect_ignore = [str(path) for path in (*FOLDERS, *all_modules()) if not PROMISED or not needs(path) <= PROMISED]


def pytest_configure(config: pytest.Config) -> None:
    # What frameworks say about each other's age is not ours to mend; what is said about our own modules still counts.
    for line in (
        "ignore::DeprecationWarning",
        "ignore::PendingDeprecationWarning",
        "ignore::ImportWarning",
        # Some leave connections to the collector, which then blames whichever test is running.
        "ignore::ResourceWarning",
        "error::DeprecationWarning:tappass",
        "error::PendingDeprecationWarning:tappass",
    ):
        config.addinivalue_line("filterwarnings", line)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # What an older framework does differently, it does over any plane and on any event loop: one of each will do.
    environment = here()
    if environment is None or not environment.oldest:
        return
    more = [item for item in items if {"remote", "trio"} & set(re.findall("[a-z]+", item.name.partition("[")[2]))]
    config.hook.pytest_deselected(items=more)
    items[:] = [item for item in items if item not in set(more)]


def pytest_collection_finish(session: pytest.Session) -> None:
    # Frameworks are hundreds of thousands of objects that stay: no collection in a test needs to walk them again.
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    # What the last test's framework left to the garbage collector has no test any more that it could be said of.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(5):
            gc.collect()
