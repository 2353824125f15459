"""The embedded plane: the engine in this process, on SQLite; nothing to start."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tappass.enforcement.port import AsyncChunkSource, ChunkSource
from tappass.engine.approvals import ApprovalGate
from tappass.engine.audit.checkpoint import Checkpointer
from tappass.engine.audit.keys import LogKey, equality_key, log_key
from tappass.engine.engine import Engine
from tappass.engine.gateway import Gateway
from tappass.engine.hopping import hop_to_the_end
from tappass.engine.integrity import Integrity
from tappass.engine.issuer import Issuer
from tappass.engine.joining import EMBEDDED, join
from tappass.engine.leaves import ORG, PROJECT, Leaves
from tappass.engine.override import Overriding
from tappass.engine.pipelines import Pipelines
from tappass.engine.policy.files import PolicySources
from tappass.engine.signing_keys import SigningKeys
from tappass.engine.store.connection import MEMORY
from tappass.engine.store.outage import cannot_record
from tappass.engine.store.port import Store
from tappass.engine.store.sqlite import SqliteStore
from tappass.engine.voting import Voting, await_decision
from tappass.extras import missing
from tappass.plane.connect import home_of
from tappass.plane.followed import FOLDER
from tappass.wire.chat import ChatRequest, ChatResponse
from tappass.wire.decisions import Decision, DecisionRequest
from tappass.wire.endings import Ending, Settlement
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock, Ids
from tappass.wire.service import Stamp
from tappass.wire.sessions import Opening, SessionRecord

# Below this many bytes a result is inspected on the event loop: a hop to a thread costs more.
_HOP_BYTES = 20_000


class EmbeddedPlane:
    """The engine behind both faces of the port.

    Args:
        store: the database.
        directory: where policy and settings lie; None where `sources` gives them.
        keys: where the key of correlation tokens lies; None for one that lives as long as this object.
        sources: policy and settings given by code, in force at once.
        org_id, project_id: whose it is.
        shared: other planes serve the same sessions over the same database.
    """

    def __init__(
        self,
        store: Store,
        directory: Path | None,
        *,
        url: str,
        log_key: LogKey,
        equality_key: Callable[[], bytes],
        keys: Path | None = None,
        sources: PolicySources | None = None,
        clock: Clock = SYSTEM_CLOCK,
        ids: Ids = UUID_IDS,
        org_id: str = ORG,
        project_id: str = PROJECT,
        shared: bool = False,
    ) -> None:
        store, leaves = store.scoped(org_id), Leaves(clock, org_id, project_id)
        self.url = url
        self.directory = directory
        self.log_key = log_key
        self.pipelines = Pipelines(store, directory, leaves, clock, sources)
        approvals = ApprovalGate(leaves, equality_key, clock, ids)
        voting = Voting(store, leaves, approvals, clock)
        # An override relaxes what policy and pins say; budgets hold under it, and nobody is asked for what it relaxed.
        first = (Integrity(leaves, clock), Overriding(leaves, clock))
        signing = SigningKeys(store, leaves, keys, clock)
        issuer = Issuer(store, leaves, signing, lambda: self.pipelines.current().settings, clock=clock, ids=ids)
        gates: dict[str, Any] = {"first": first, "gates": (approvals,), "issuer": issuer}
        self.engine = Engine(
            store, self.pipelines, leaves, voting, **gates, clock=clock, ids=ids, key=equality_key, shared=shared
        )
        self.gateway = Gateway(self.engine)
        self.sync = SyncFace(self)
        self.aio = AsyncFace(self)

    @classmethod
    def at(cls, path: Path) -> EmbeddedPlane:
        """Open the plane whose database is that file; policy lies beside its `.tappass` directory."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_record(str(path), error) from error
        key = log_key(path.parent)
        keys: dict[str, Any] = {
            "log_key": key,
            "equality_key": partial(equality_key, path.parent),
            "keys": path.parent,
        }
        plane = cls(SqliteStore(path), home_of(path), url=f"sqlite:///{path}", **keys)
        audit = plane.pipelines.current().settings.audit
        if audit.synchronous == "full":
            plane.engine.store.close()
            plane = cls(SqliteStore(path, synchronous="full"), home_of(path), url=plane.url, **keys)
        Checkpointer(plane.engine.store, key, witness=audit.witness or None).attach(audit.checkpoint_every_s)
        return plane

    @classmethod
    def on_postgresql(cls, url: str, directory: Path) -> EmbeddedPlane:
        """Open the plane whose database is a PostgreSQL one; policy lies in a directory, keys in its `.tappass`.

        Raises:
            TapPassConfigError: the extra `postgres` is missing, or the url cannot be read.
            TapPassConnectionError: the database cannot be reached.
        """
        try:
            from tappass.engine.store.postgres import PostgresStore
        except ImportError as error:
            raise missing("postgres", "a PostgreSQL database") from error
        folder = directory / FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = log_key(folder)
        keys: dict[str, Any] = {"log_key": key, "equality_key": partial(equality_key, folder), "keys": folder}
        plane = cls(PostgresStore(url), directory, url=url, **keys)
        audit = plane.pipelines.current().settings.audit
        Checkpointer(plane.engine.store, key, witness=audit.witness or None).attach(audit.checkpoint_every_s)
        return plane

    @classmethod
    def in_memory(cls, sources: PolicySources, *, url: str, clock: Clock = SYSTEM_CLOCK) -> EmbeddedPlane:
        """Make a plane that lives as long as this object; for tests."""
        secret = os.urandom(32)
        keys: dict[str, Any] = {"log_key": LogKey(os.urandom(32)), "equality_key": lambda: secret}
        return cls(SqliteStore(MEMORY, clock=clock), None, url=url, sources=sources, clock=clock, **keys)

    def resume(self, token: str) -> SessionRecord:
        """Reopen the session whose call an approval holds, durably.

        Raises:
            TapPassConfigError: this plane did not issue the token.
        """
        return self.engine.sessions.reopen(self.engine.voting.session_of(token)).record

    def join(self, token: str, audience: str) -> SessionRecord:
        """Open a session beneath the one that a token names.

        Raises:
            CorrelationRefused: the token does not hold.
        """
        return join(self.engine, token, audience, EMBEDDED)

    def shutdown(self) -> None:
        """Write out what waits, sign a checkpoint, let go of connections."""
        self.engine.store.close()


class SyncFace:
    """The engine, called directly."""

    def __init__(self, plane: EmbeddedPlane) -> None:
        self._engine = plane.engine
        self._gateway = plane.gateway
        self.url = plane.url
        self.open = self._engine.open
        self.decide = self._engine.decide
        self.settle = self._engine.settle
        self.abandon = self._engine.abandon
        self.scanner = self._engine.scanner
        self.resume = plane.resume
        self.stamp = self._engine.issuer.stamp
        self.join = plane.join
        self.wait = self._engine.voting.wait

    def close(self, session_id: str, status: str) -> None:
        """Close a session, durably."""
        self._engine.close(session_id, status)

    def chat(self, request: ChatRequest) -> ChatResponse:
        """Take one governed chat turn."""
        return self._gateway.chat(request)

    def stream(self, request: ChatRequest) -> ChunkSource:
        """Take one governed chat turn, streamed."""
        return self._gateway.stream(request)


class AsyncFace:
    """The engine, on threads of its own where it waits for the disk."""

    def __init__(self, plane: EmbeddedPlane) -> None:
        self._engine = plane.engine
        self._gateway = plane.gateway
        self._plane = plane
        self.url = plane.url
        self.abandon = self._engine.abandon
        self.scanner = self._engine.scanner

    async def open(self, opening: Opening) -> SessionRecord:
        """Open a session, durably; one that a cancelled caller never gets is closed again."""
        opened: list[SessionRecord] = []
        try:
            await hop_to_the_end(lambda asked: opened.append(self._engine.open(asked)), opening)
        except BaseException:
            for record in opened:
                self._engine.close(record.session_id, "failed")
            raise
        return opened[0]

    async def resume(self, token: str) -> SessionRecord:
        """Reopen the session whose call an approval holds, durably."""
        return await hop_to_the_end(self._plane.resume, token)

    async def stamp(self, session_id: str, audience: str, task_id: str = "") -> Stamp:
        """Return a token that places one receiver's calls in that session."""
        return await hop_to_the_end(lambda asked: self._engine.issuer.stamp(*asked), (session_id, audience, task_id))

    async def join(self, token: str, audience: str) -> SessionRecord:
        """Open a session beneath the one that a token names, durably."""
        return await hop_to_the_end(lambda asked: self._plane.join(*asked), (token, audience))

    async def wait(self, token: str, timeout_s: float) -> str:
        """Wait until people have decided, or for that long; between looks the event loop is free."""
        return await await_decision(self._engine.voting, token, timeout_s)

    async def decide(self, request: DecisionRequest) -> Decision:
        """Answer whether a call may run; a cancelled caller leaves only once the answer is on record or is none."""
        return await hop_to_the_end(self._engine.decide, request)

    async def settle(self, ending: Ending) -> Settlement:
        """Inspect a result and close the call's record; only a large result leaves the event loop."""
        if ending.scan is not None and _is_large(ending.result):
            return await hop_to_the_end(self._engine.settle, ending, must=True)
        return self._engine.settle(ending)

    async def close(self, session_id: str, status: str) -> None:
        """Close a session, durably."""
        await hop_to_the_end(lambda _: self._engine.close(session_id, status), None, must=True)

    async def chat(self, request: ChatRequest) -> ChatResponse:
        """Take one governed chat turn."""
        return await self._gateway.achat(request)

    async def stream(self, request: ChatRequest) -> AsyncChunkSource:
        """Take one governed chat turn, streamed."""
        return self._gateway.astream(request)


def _is_large(value: Any, budget: int = 200) -> bool:
    """Tell cheaply whether a value is worth a thread: long text, or many items."""
    if isinstance(value, str):
        return len(value) > _HOP_BYTES
    if isinstance(value, list | dict):
        items = value if isinstance(value, list) else value.values()
        return len(value) > budget or any(_is_large(item, budget // 2) for item in items)
    return False
