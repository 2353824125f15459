"""The contract: one suite over every plane, every store and every face.

A scenario is an `async def` whatever the face: the sync face runs it without an event loop, since nothing in it ever
suspends. A further plane or store is one more entry in `PLANES`.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from textwrap import dedent
from typing import Any

import anyio
import pytest

from tappass import tool
from tappass.plane.connect import connect
from tappass.scopes import tappass_session
from tappass.session.registry import registry
from tappass.testing import memory_plane
from tests.living import Remote, remote_plane
from tests.postgres import fresh_database


class Face:
    """One way of calling: sync, or async on one backend."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def run(self, scenario: Callable[[], Awaitable[Any]]) -> Any:
        if self.backend != "sync":
            return anyio.run(scenario, backend=self.backend)
        coroutine = scenario()
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("a sync scenario suspended")

    def tool(self, function: Callable[..., Any], **options: Any) -> Any:
        """Govern a function as this face has it: as it is, or as a coroutine function."""
        return tool(**options)(function if self.backend == "sync" else as_async(function))

    async def call(self, governed: Any, *args: Any, **kwargs: Any) -> Any:
        result = governed(*args, **kwargs)
        return result if self.backend == "sync" else await result

    async def items(self, governed: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Collect what a governed generator yields."""
        if self.backend == "sync":
            return list(governed(*args, **kwargs))
        return [item async for item in governed(*args, **kwargs)]

    @asynccontextmanager
    async def session(self, **options: Any) -> Any:
        if self.backend == "sync":
            with tappass_session(**options) as session:
                yield session
        else:
            async with tappass_session(**options) as session:
                yield session


def as_async(function: Callable[..., Any]) -> Any:
    """Return the coroutine (or async generator) function that does what a function does."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        async def astream(*args: Any, **kwargs: Any) -> Any:
            for item in function(*args, **kwargs):
                yield item

        twin: Any = astream
    else:

        @functools.wraps(function)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        twin = acall
    # inspect would otherwise see through to the sync function.
    twin.__signature__ = inspect.signature(function)
    del twin.__wrapped__
    return twin


class Subject:
    """A plane under test, with what a test needs beside the public API: the engine that answers, wherever it runs."""

    def __init__(self, plane: Any, put_policy: Callable[[str], Any], put_settings: Callable[[str], Any]) -> None:
        self.plane = plane
        self.policy = put_policy
        self.settings = put_settings
        self.engine = plane.engine
        self.agent = "robot"

    def events(self, **equal: Any) -> list[Any]:
        self.engine.store.flush()
        events = self.engine.store.read.all_events()
        return [e for e in events if all(getattr(e, name) == value for name, value in equal.items())]


@contextmanager
def _in_memory(_tmp: Any) -> Iterator[Subject]:
    with memory_plane() as made:
        yield Subject(made.plane, made.policy, made.settings)


@contextmanager
def _on_postgresql(tmp_path: Any) -> Iterator[Subject]:
    with fresh_database() as url:
        os.environ["TAPPASS_URL"] = url
        try:
            with _on_sqlite(tmp_path) as subject:
                yield subject
        finally:
            os.environ.pop("TAPPASS_URL", None)


@contextmanager
def _on_sqlite(tmp_path: Any) -> Iterator[Subject]:
    plane: Any = connect()

    def put(text: str, file: str = "policy.yaml") -> None:
        (tmp_path / file).write_text(dedent(text).lstrip("\n"))
        plane.pipelines.accept("os:tester")
        registry.forget_implicit(plane.url)

    yield Subject(plane, put, partial(put, file="tappass.toml"))
    registry.shutdown()


@contextmanager
def _remote(tmp_path: Any, database: str = "") -> Iterator[Remote]:
    (tmp_path / "server").mkdir()
    with remote_plane(tmp_path / "server", database) as remote:
        yield remote


@contextmanager
def _remote_on_postgresql(tmp_path: Any) -> Iterator[Remote]:
    with fresh_database() as url, _remote(tmp_path, url) as remote:
        yield remote


PLANES = {
    "embedded-memory": _in_memory,
    "embedded-sqlite": _on_sqlite,
    "embedded-postgresql": _on_postgresql,
    "remote-sqlite": _remote,
    "remote-postgresql": _remote_on_postgresql,
}


@pytest.fixture(params=PLANES)
def plane(request: pytest.FixtureRequest, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TAPPASS_URL", raising=False)
    with PLANES[request.param](tmp_path) as subject:
        yield subject


@pytest.fixture(params=["sync", "asyncio", "trio"])
def face(request: pytest.FixtureRequest) -> Face:
    return Face(request.param)
