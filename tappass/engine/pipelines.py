"""Which pipeline is in force: the last one a person accepted, not the last one somebody wrote to a file."""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from tappass import forking
from tappass.engine.detect.detectors import Detectors, catalogue
from tappass.engine.leaves import ORG, PROJECT, Leaves
from tappass.engine.policy.check import check
from tappass.engine.policy.files import PolicySources, find_files
from tappass.engine.policy.policy import Policy
from tappass.engine.policy.problems import failed
from tappass.engine.settings import Settings
from tappass.engine.store.port import POLICY, Store, Tx
from tappass.errors import TapPassConfigError, TapPassError
from tappass.wire.codec import decode
from tappass.wire.decisions import ToolDefinition
from tappass.wire.ids import Clock, rfc3339

FIRST_USE = "first-use"
# The directories without a policy that this process was told of.
_warned: set[Path] = set()

_LATEST = (
    "SELECT pipeline_uuid, bundle, settings, sources_digest, accepted_by, accepted_at FROM policy_version"
    " WHERE org_id = ? AND project_id = ? ORDER BY accepted_seq DESC LIMIT 1"
)
_ACCEPT = (
    "INSERT INTO policy_version (org_id, project_id, pipeline_uuid, bundle, settings, sources_digest, first_seen_at,"
    " accepted_by, accepted_at, accepted_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (org_id, project_id, pipeline_uuid) DO UPDATE SET bundle = excluded.bundle,"
    " settings = excluded.settings, sources_digest = excluded.sources_digest, accepted_by = excluded.accepted_by,"
    " accepted_at = excluded.accepted_at, accepted_seq = excluded.accepted_seq"
)
_ONE = (
    "SELECT bundle, settings, sources_digest, accepted_by, accepted_at FROM policy_version"
    " WHERE org_id = ? AND project_id = ? AND pipeline_uuid = ?"
)
_TOOLS = "SELECT definition FROM tool_definition WHERE org_id = ? AND project_id = ? ORDER BY first_seen_seq"
# Versions that open sessions may still be under; each takes about a megabyte for a thousand rules.
_KEPT = 32


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The rules, settings and detectors of one accepted version."""

    policy: Policy
    settings: Settings
    detectors: Detectors
    sources_digest: str
    accepted_by: str = ""
    accepted_at: str = ""

    @property
    def uuid(self) -> str:
        """The UUIDv5 of the rules' canonical content."""
        return self.policy.pipeline_uuid


@dataclass(frozen=True, slots=True)
class Pending:
    """A change on disk that nobody has accepted; `problem` says why it could not be, if it could not."""

    digest: str
    problem: str = ""


class Pipelines:
    """The accepted versions of one project, and the files they come from.

    Args:
        store: where accepted versions are kept.
        directory: where `policy.yaml`, `policies/` and `tappass.toml` lie; None where policy is given by code.
        leaves: how a change is put into the log.
        clock: what time it is.
        fixed: sources given by code, in force at once; for tests.
    """

    def __init__(
        self,
        store: Store,
        directory: Path | None,
        leaves: Leaves,
        clock: Clock,
        fixed: PolicySources | None = None,
    ) -> None:
        self._store = store
        self._directory = directory
        self._leaves = leaves
        self._clock = clock
        self._lock = forking.Lock()
        self._current: Pipeline | None = None
        self._known: OrderedDict[str, Pipeline] = OrderedDict()
        self._told = ""
        self._fixed = fixed

    def sources(self) -> PolicySources:
        """Read what lies on disk."""
        if self._fixed is not None:
            return self._fixed
        return find_files(self._directory) if self._directory is not None else PolicySources.empty()

    def current(self) -> Pipeline:
        """Return the version that sessions opened now are under.

        A new database accepts what it finds ("first-use"). After that a change waits for `tappass policy accept`,
        unless the accepted settings say `reload = "auto"`. Where there is no policy at all, a line says so once.

        Raises:
            TapPassConfigError: there is no accepted version, and the one on disk is wrong.
        """
        with self._lock:
            accepted = self.accepted()
            sources = self.sources()
            if accepted is None:
                accepted = self._accept(sources, FIRST_USE, None)
            elif sources.digest != accepted.sources_digest:
                return self._changed(accepted, sources)
            self._told = ""
            if not sources.policies:
                self._warn_of_no_policy()
            return accepted

    def _warn_of_no_policy(self) -> None:
        """Say once in a process, on stderr, that there are no rules; where code gives the policy it knows."""
        if self._directory is not None and self._directory not in _warned:
            _warned.add(self._directory)
            print(  # noqa: T201
                f"tappass: there is no policy in {self._directory}: calls are allowed and recorded, secrets in them "
                "masked; `tappass init` writes a policy to start from",
                file=sys.stderr,
            )

    def _changed(self, accepted: Pipeline, sources: PolicySources) -> Pipeline:
        problem = ""
        if accepted.settings.policy.reload == "auto" or self._fixed is not None:
            try:
                return self._accept(sources, "auto", accepted)
            except TapPassConfigError as error:
                problem = str(error)
        if self._told != sources.digest:
            self._told = sources.digest
            self._tell(accepted, sources, problem)
        return accepted

    def _tell(self, accepted: Pipeline, sources: PolicySources, problem: str) -> None:
        """Say once, on stderr and in the log, that a change on disk does not rule."""
        why = f"it cannot be accepted: {problem}" if problem else "review it, then run `tappass policy accept`"
        print(f"tappass: policy or settings changed on disk; the accepted version rules; {why}", file=sys.stderr)  # noqa: T201
        event = self._leaves.event(
            "policy.changed", pipeline_uuid=accepted.uuid, details={"sources": sources.digest[:16]}
        )
        self._store.run(lambda tx: tx.append(event))

    def pending(self) -> Pending | None:
        """Return the change on disk that waits to be accepted, None if what is on disk rules."""
        accepted = self.accepted()
        sources = self.sources()
        if accepted is not None and sources.digest == accepted.sources_digest:
            return None
        try:
            self.load(sources)
        except TapPassError as error:
            return Pending(sources.digest, str(error))
        return Pending(sources.digest)

    def changed(self) -> bool:
        """Tell whether what lies on disk is not what was accepted; False where nothing was yet."""
        accepted = self.accepted()
        return accepted is not None and self.sources().digest != accepted.sources_digest

    def accept(self, by: str) -> tuple[Pipeline | None, Pipeline]:
        """Put what lies on disk in force for sessions opened from now on; return the old version and the new.

        Raises:
            TapPassConfigError: it is wrong, file, line and column named; the old version still rules.
        """
        with self._lock:
            old = self.accepted()
            return old, self._accept(self.sources(), by, old)

    def replace(self, sources: PolicySources) -> Pipeline:
        """Put sources given by code in force."""
        with self._lock:
            pipeline = self._accept(sources, "code", self.accepted())
            self._fixed = sources
            return pipeline

    def accepted(self) -> Pipeline | None:
        """Return the newest accepted version; another process may have accepted it."""
        row = self._store.read.row(_LATEST, (self._leaves.org_id, self._leaves.project_id))
        if row is None:
            return None
        uuid, bundle, settings, digest, by, at = row
        known = self._current
        if known is None or (known.uuid, known.sources_digest, known.accepted_at) != (uuid, digest, at):
            policy = Policy.from_bundle(bundle)
            known = self._current = Pipeline(policy, Settings.from_bundle(settings), Detectors(), digest, by, at)
        return known

    def of(self, pipeline_uuid: str) -> Pipeline | None:
        """Return an accepted version by its id, in force or not; None if it was never accepted here.

        Its settings are those accepted with it last.
        """
        current = self._current
        if current is not None and current.uuid == pipeline_uuid:
            return current
        known = self._known.get(pipeline_uuid)
        if known is None:
            row = self._store.read.row(_ONE, (self._leaves.org_id, self._leaves.project_id, pipeline_uuid))
            if row is None:
                return None
            bundle, settings, digest, by, at = row
            policy = Policy.from_bundle(bundle)
            known = self._known[pipeline_uuid] = Pipeline(
                policy, Settings.from_bundle(settings), Detectors(), digest, by, at
            )
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return known

    def load(self, sources: PolicySources) -> tuple[Policy, Settings]:
        """Read policy and settings, and hold the rules against the tools that have run here.

        Raises:
            TapPassConfigError: something is wrong; file, line and column of every problem.
        """
        policy, settings = sources.load_policy(frozenset(catalogue())), sources.load_settings()
        if problems := check(policy, known_tools(self._store, self._leaves.org_id, self._leaves.project_id)):
            raise failed(problems)
        return policy, settings

    def _accept(self, sources: PolicySources, by: str, old: Pipeline | None) -> Pipeline:
        policy, settings = self.load(sources)
        at = rfc3339(self._clock.time_ns())
        event = self._leaves.event(
            "policy.accepted",
            pipeline_uuid=policy.pipeline_uuid,
            actor=by,
            details={"old": old.uuid if old else "", "sources": sources.digest[:16]},
        )

        def write(tx: Tx) -> None:
            seq = tx.append(event, policy.bundle).seq
            keys = (self._leaves.org_id, self._leaves.project_id, policy.pipeline_uuid)
            tx.execute(_ACCEPT, (*keys, policy.bundle, settings.bundle, sources.digest, at, by, at, seq))
            tx.notify(self._leaves.org_id, POLICY)

        self._store.run(write)
        self._known.pop(policy.pipeline_uuid, None)
        self._current = Pipeline(policy, settings, Detectors(), sources.digest, by, at)
        return self._current


def known_tools(store: Store, org_id: str = ORG, project_id: str = PROJECT) -> list[ToolDefinition]:
    """Return the tools that have run here; of several definitions of one the newest, for that one will run."""
    found = (decode(row[0], ToolDefinition) for row in store.read.query(_TOOLS, (org_id, project_id)))
    return list({(tool.server, tool.name): tool for tool in found}.values())
