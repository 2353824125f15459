"""The files that a project's policy and settings lie in, read once and read again only if they changed."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tappass import forking
from tappass.engine.policy.policy import Policy
from tappass.engine.policy.problems import Problem, failed
from tappass.engine.settings import Settings, read_settings
from tappass.wire.codec import canonical

POLICY, FOLDER, SETTINGS = "policy.yaml", "policies", "tappass.toml"
TESTS = ".test.yaml"
# A file written twice within one tick of the file system's clock may look unchanged.
_SETTLED_NS = 2_000_000_000
_LARGEST = 10_000_000


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: the name that messages use, its bytes, and why it could not be read if it could not."""

    name: str
    body: bytes = b""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PolicySources:
    """Policy and settings as they are written; `digest` changes whenever a byte does."""

    policies: tuple[SourceFile, ...] = ()
    settings: SourceFile | None = None
    digest: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        files = [*self.policies, *([self.settings] if self.settings is not None else [])]
        parts = [(file.name, hashlib.sha256(file.body).hexdigest(), file.problem) for file in files]
        object.__setattr__(self, "digest", hashlib.sha256(canonical(parts)).hexdigest())

    @classmethod
    def of(cls, policy: str = "", settings: str = "") -> PolicySources:
        """Return sources given by code; blank text stands for no file. Line 1 is the first that is not empty."""
        body = policy.lstrip("\n")
        return cls(
            policies=(SourceFile(POLICY, body.encode()),) if body.strip() else (),
            settings=SourceFile(SETTINGS, settings.encode()) if settings.strip() else None,
        )

    @classmethod
    def empty(cls) -> PolicySources:
        """Return what there is where there are no files."""
        return cls()

    @classmethod
    def read(cls, policies: Iterable[Path], settings: Path | None = None) -> PolicySources:
        """Read named files."""
        found = _read(settings, settings.name) if settings is not None else None
        return cls(policies=tuple(_read(path, str(path)) for path in policies), settings=found)

    def load_policy(self, known_kinds: frozenset[str]) -> Policy:
        """Return the policy, the built-in one where there is no file.

        Args:
            known_kinds: what detectors there are find, so that rules may name it.

        Raises:
            TapPassConfigError: something is wrong; file, line and column of every problem.
        """
        _refuse_unreadable(self.policies)
        if not self.policies:
            return Policy.built_in()
        with forking.unforked:
            # Only where files are read: a policy that was accepted before needs no YAML.
            from tappass.engine.policy.load import load

        loaded = load([(file.name, file.body) for file in self.policies], known_kinds)
        return Policy(loaded.document, loaded.conditions)

    def load_settings(self) -> Settings:
        """Return the settings, with defaults for all that is not said.

        Raises:
            TapPassConfigError: something is wrong; the key is named.
        """
        if self.settings is None:
            return Settings()
        _refuse_unreadable([self.settings])
        return read_settings(self.settings.name, self.settings.body)


def _refuse_unreadable(files: Iterable[SourceFile]) -> None:
    problems = [Problem(file.name, 0, 0, file.problem) for file in files if file.problem]
    if problems:
        raise failed(problems, what="a file cannot be read")


def find_files(directory: Path) -> PolicySources:
    """Return `policy.yaml`, then `policies/*.yaml` by name, and `tappass.toml` of a directory.

    Cheap if nothing changed: then only the files' sizes, times and identities are looked at.
    """
    before = time.time_ns()
    names = _names(directory)
    state = tuple((name, _state(directory / name)) for name in names)
    known = _seen.get(directory)
    if known is not None and known[0] == state:
        return known[1]
    files = {name: _read(directory / name, name) for name in names}
    settings = files.pop(SETTINGS, None)
    sources = PolicySources(policies=tuple(files.values()), settings=settings)
    newest = max((max(times) for _, (_, _, *times) in state), default=0)
    if before - newest > _SETTLED_NS:
        _seen[directory] = (state, sources)
    return sources


_seen: dict[Path, tuple[tuple[tuple[str, tuple[int, ...]], ...], PolicySources]] = {}


def case_files(directory: Path) -> tuple[Path, ...]:
    """Return the cases beside the rules: `policy.test.yaml`, then `policies/*.test.yaml` by name."""
    beside = [directory / POLICY.replace(".yaml", TESTS), *sorted((directory / FOLDER).glob(f"*{TESTS}"))]
    return tuple(path for path in beside if path.is_file())


def _names(directory: Path) -> list[str]:
    names = [name for name in (POLICY, "policy.yml") if (directory / name).exists()]
    try:
        listed = sorted(os.listdir(directory / FOLDER))
    except (FileNotFoundError, NotADirectoryError):
        listed = []
    except OSError:
        # Not to be taken for an empty one.
        listed = [""]
    rules = [n for n in listed if n == "" or (n.endswith((".yaml", ".yml")) and not n.startswith("."))]
    names += [f"{FOLDER}/{name}" for name in rules if not name.endswith(TESTS)]
    return names + [SETTINGS] * (directory / SETTINGS).exists()


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, time.time_ns())
    return (found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


def _read(path: Path, name: str) -> SourceFile:
    if path.suffix == ".yml":
        # Passing it over would leave its rules out of force without a word.
        return SourceFile(name, problem="policy files end in `.yaml`; rename it")
    try:
        found = path.stat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            # Reading a pipe or a device may never end.
            return SourceFile(name, problem="it is no regular file; replace it by one")
        if found.st_size > _LARGEST:
            return SourceFile(name, problem=f"it is larger than {_LARGEST:,} bytes; split it")
        return SourceFile(name, path.read_bytes())
    except OSError as error:
        return SourceFile(name, problem=f"{error.strerror or type(error).__name__}; make it readable, or remove it")
