"""Which frameworks a guard is for, which versions are supported and what each guard stands on; nothing imports them."""

from __future__ import annotations

import re
from importlib import metadata

import msgspec

import tappass
from tappass.cli.looks import NOTE, OK, PROBLEM, Check, Checks
from tappass.extras import APART, missing


class Framework(msgspec.Struct, frozen=True):
    """A framework's package, the extra that brings it, the newest version tested, its guards and what they stand on."""

    package: str
    extra: str
    newest: str
    guards: tuple[str, ...]
    hook: str


FRAMEWORKS = (
    Framework(
        "crewai", "crewai", "1.15.30", ("guard_crew", "guard_crew_async"),
        "the hooks of crewai.hooks, in a scope of the run's own",
    ),
    Framework(
        "langchain", "langchain", "1.5.2", ("guard_agent", "guard_agent_async"),
        "a callback handler that langchain-core adds to every run in the guard's context",
    ),
    Framework(
        "langgraph", "langchain", "1.2.24", ("guard_agent", "guard_agent_async"),
        "the same handler as for langchain, and interrupt() for approvals",
    ),
    Framework(
        "openai", "openai", "3.57.0", ("guard_openai_run", "guard_openai_run_async"),
        "proxies of client.responses and client.beta.threads.runs",
    ),
    Framework(
        "openai-agents", "openai-agents", "0.24.0", ("guard_openai_run", "guard_openai_run_async"),
        "RunHooks, and guarded copies of the agent's tools, given to Runner",
    ),
    Framework(
        "google-adk", "google-adk", "2.13.0", ("guard_adk_agent", "guard_adk_agent_async"),
        "a BasePlugin of the Runner",
    ),
    Framework("fastapi", "fastapi", "0.165.0", ("TapPassMiddleware",), "pure ASGI middleware"),
    Framework(
        "a2a-sdk", "a2a", "1.3.0", ("with_correlation", "join_correlation"),
        "a client call interceptor and a server call context builder",
    ),
    Framework(
        "mcp", "mcp", "2.3.0", ("guard_mcp_client", "TapPassMCPMiddleware"),
        "a proxy of Client or ClientSession; on the server, MCPServer's middleware (mcp 2)",
    ),
    Framework("fastmcp", "fastmcp", "4.1.7", ("TapPassMCPMiddleware",), "FastMCP's middleware"),
    Framework(
        "temporalio", "temporal", "1.35.0", ("TapPassPlugin", "governed_workflow"),
        "a plugin with client and worker interceptors",
    ),
)  # fmt: skip


def framework_checks() -> Checks:
    """Look at each framework that is installed, then at those that are not made for each other."""
    floors = asked_for()
    found = {row.package: version for row in FRAMEWORKS if (version := version_of(row.package)) is not None}
    for row in FRAMEWORKS:
        if row.package in found:
            yield _check(row, found[row.package], floors.get(row.extra, {}))
    yield from _disagreements(found)


def version_of(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def asked_for() -> dict[str, dict[str, str]]:
    """Return what each extra of ours asks for: package and oldest version."""
    asked: dict[str, dict[str, str]] = {}
    for line in metadata.requires("tappass") or ():
        if named := re.search(r"extra == ['\"]([\w-]+)['\"]", line):
            asked.setdefault(named[1], {})[_name(line)] = _bound(line, ">=")
    return asked


def _check(row: Framework, version: str, asked: dict[str, str]) -> Check:
    what, floor = f"framework {row.package}", asked.get(row.package, "")
    guards = [name for name in row.guards if name in tappass.__all__]
    if not guards:
        return Check(what=what, state=NOTE, found=f"{version}; this tappass has no guard for it")
    if _release(version) < _release(floor):
        remedy = f"install {row.package}>={floor}, or do not guard it"
        return Check(what=what, state=NOTE, found=f"{version}, not supported", remedy=remedy)
    by = f"{', '.join(guards)}: {row.hook}"
    if absent := [package for package in asked if version_of(package) is None]:
        remedy = str(missing(row.extra, f"{guards[0]}()"))
        return Check(what=what, state=NOTE, found=f"{version}, without {', '.join(absent)}; {by}", remedy=remedy)
    if _release(version) > _release(row.newest):
        return Check(what=what, state=NOTE, found=f"{version}, newer than the newest tested, {row.newest}; {by}")
    return Check(what=what, state=OK, found=f"{version}, supported ({floor} to {row.newest} are tested); {by}")


def _disagreements(found: dict[str, str]) -> Checks:
    """Name two that are installed though one of them forbids it, as an installer that is told twice may leave them."""
    remedy = "give each an environment of its own"
    for first, others in APART.items():
        for second in (other for other in others if first in found and other in found):
            text = f"{found[first]} and {found[second]} cannot go together: no versions agree on what they need"
            yield Check(what=f"{first} with {second}", state=PROBLEM, found=text, remedy=remedy)
    for package, line in ((name, line) for name in found for line in metadata.requires(name) or ()):
        other = _name(line)
        # Whether a condition holds here is not judged: only what is asked for always.
        if other in found and ";" not in line and not _allows(line, found[other]):
            text = f"{package} {found[package]} needs {line}, and {found[other]} is installed"
            yield Check(what=f"{package} with {other}", state=PROBLEM, found=text, remedy=remedy)


def _allows(requirement: str, version: str) -> bool:
    low, high = _bound(requirement, ">="), _bound(requirement, "<")
    return _release(low) <= _release(version) and (not high or _release(version) < _release(high))


def _name(requirement: str) -> str:
    """Return the normalised name (PEP 503) that stands at the head of `Some_Name[extra]>=1; marker`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def _bound(requirement: str, sign: str) -> str:
    found = re.search(rf"{sign}\s*(\d[\w.]*)", requirement.partition(";")[0])
    return found[1] if found else ""


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers that compare: `1.10.0rc1` is (1, 10); the release before it counts as it."""
    digits = re.match(r"(?:\d+!)?(\d+(?:\.\d+)*)", version)
    numbers = [int(part) for part in digits[1].split(".")] if digits else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
