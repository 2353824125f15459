"""Rules before they are in force: checked, tested by the cases beside them, tried on calls that nobody makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import msgspec
import typer

from tappass.cli.console import complain, emit, say, shown
from tappass.cli.exits import NO
from tappass.cli.options import Json
from tappass.cli.place import Place, here
from tappass.errors import TapPassConfigError

if TYPE_CHECKING:
    from tappass.engine.policy.cases import CaseResult
    from tappass.engine.policy.facts import Verdict
    from tappass.engine.policy.files import PolicySources
    from tappass.engine.policy.policy import Policy
    from tappass.engine.policy.problems import Problem
    from tappass.wire.decisions import ToolDefinition

T = TypeVar("T")

Paths: TypeAlias = Annotated[
    list[Path] | None, typer.Argument(exists=True, help="Files or directories; this directory's by default.")
]


def check(paths: Paths = None, as_json: Json = False) -> None:
    """Load policy, settings and cases; name file, line and column of all that is wrong, and exit with 1."""
    with here() as place:
        rules, cases = _parted(paths or [place.home])
        found = Found()
        if rules:
            sources = _sources(rules)
            found.take(sources.load_settings)
            policy = found.take(lambda: load(sources))
            if policy is not None:
                found.policy = policy
                found.problems += _against_tools(policy, place)
        found.take(lambda: _read_cases(cases))
    if as_json:
        uuid = found.policy.pipeline_uuid if found.policy else ""
        emit({"ok": not found.problems, "problems": found.problems, "pipeline_uuid": uuid})
    else:
        say(*(shown(problem) for problem in found.problems) if found.problems else [_sound(found, len(cases))])
    if found.problems:
        raise typer.Exit(NO)


class Found:
    """What a check has found so far."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.policy: Policy | None = None

    def take(self, step: Callable[[], T]) -> T | None:
        """Take one step; return what it returns, or note the problems it lists."""
        from tappass.engine.policy.problems import problems_of

        try:
            return step()
        except TapPassConfigError as error:
            if not (listed := problems_of(error)):
                raise
            self.problems += listed
            return None


def _sound(found: Found, cases: int) -> str:
    if found.policy is None:
        return f"no problems in {cases} files of cases"
    rules = len(found.policy.document.rules)
    return f"no problems: {rules} {'rule' if rules == 1 else 'rules'}, pipeline {found.policy.pipeline_uuid}"


def _parted(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Part files of cases from everything else; a directory holds both."""
    from tappass.engine.policy.files import TESTS, case_files

    cases = [path for path in paths if path.name.endswith(TESTS)]
    inside = [each for path in paths if path.is_dir() for each in case_files(path)]
    return [path for path in paths if path not in cases], cases + inside


def _read_cases(files: list[Path]) -> None:
    if files:
        from tappass.engine.policy.cases import read_cases

        read_cases(files)


def _sources(paths: list[Path]) -> PolicySources:
    """Return what lies in a directory, or in these files.

    Raises:
        TapPassConfigError: there is nothing, or it cannot be one policy.
    """
    from tappass.engine.policy.files import SETTINGS, PolicySources, find_files

    if len(paths) == 1 and paths[0].is_dir():
        found = find_files(paths[0])
        if not found.policies and found.settings is None:
            raise TapPassConfigError(f"there is no policy in {paths[0]}; `tappass init` writes one")
        return found
    if any(path.is_dir() for path in paths):
        raise TapPassConfigError("give one directory, or files")
    settings = [path for path in paths if path.suffix == Path(SETTINGS).suffix]
    if len(settings) > 1:
        raise TapPassConfigError(f"settings are one file, not {', '.join(map(str, settings))}")
    return PolicySources.read([path for path in paths if path not in settings], *settings)


def load(sources: PolicySources) -> Policy:
    """Return the policy of these sources, which may name whatever the detectors here find."""
    from tappass.engine.detect.detectors import catalogue

    return sources.load_policy(frozenset(catalogue()))


def _against_tools(policy: Policy, place: Place) -> list[Problem]:
    """Hold the rules against the tools that have run here, if any have."""
    from tappass.engine.policy.check import check as held_against

    return list(held_against(policy, _tools(place)))


def _tools(place: Place) -> list[ToolDefinition]:
    if not place.database.exists():
        return []
    from tappass.engine.pipelines import known_tools

    return known_tools(place.store)


def run_tests(paths: Paths = None, as_json: Json = False) -> None:
    """Run the cases beside the rules; exits with 1 if the policy says something else."""
    with here() as place:
        files = _case_files(place.home, paths)
    results = [result for directory, group in files.items() for result in _run_cases(directory, group)]
    failed = [result for result in results if not result.passed]
    if as_json:
        emit({"ok": not failed, "cases": [_case(result) for result in results]})
    else:
        for result in failed:
            say(f"{shown(result.source)}: {shown(result.name)}", *(f"  {shown(each)}" for each in result.problems))
        say(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    if failed:
        raise typer.Exit(NO)


def _case_files(home: Path, paths: list[Path] | None) -> dict[Path, list[Path]]:
    """Return files of cases by the directory whose policy they are about."""
    from tappass.engine.policy.files import FOLDER, case_files

    files: dict[Path, list[Path]] = {}
    for path in paths or [home]:
        if path.is_dir():
            files.setdefault(path, []).extend(case_files(path))
        else:
            inside = path.parent.name == FOLDER
            files.setdefault(path.parent.parent if inside else path.parent, []).append(path)
    if not any(files.values()):
        where = ", ".join(map(str, files))
        raise TapPassConfigError(f"there are no cases in {where}; write them in policy.test.yaml beside policy.yaml")
    return files


def _run_cases(directory: Path, files: list[Path]) -> list[CaseResult]:
    from tappass.engine.detect.detectors import Detectors
    from tappass.engine.policy.cases import run_cases
    from tappass.engine.policy.files import find_files

    return run_cases(load(find_files(directory)), files, Detectors())


def _case(result: CaseResult) -> dict[str, Any]:
    fields = {"name": result.name, "source": result.source, "passed": result.passed, "problems": result.problems}
    return {**fields, "outcome": result.verdict.outcome}


def try_out(
    name: Annotated[str, typer.Argument(help="The tool's name, or with --llm the model's.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Values are JSON, or else text.")
    ] = None,
    llm: Annotated[
        bool, typer.Option("--llm", help="A model call instead of a tool call; prompt=… is its text.")
    ] = False,
    tier: Annotated[str, typer.Option("--tier", help="The agent's trust tier.")] = "standard",
    as_json: Json = False,
) -> None:
    """Say what the policy on disk answers to a call that nobody makes; exits with 1 if it would not run."""
    from tappass.engine.detect.detectors import Detectors
    from tappass.engine.policy.problems import meant
    from tappass.engine.policy.trial import arguments_of, call_facts

    given = arguments_of(arguments or [])
    with here() as place:
        policy = load(_sources([place.home]))
        waits = place.database.exists() and place.pipelines().pending() is not None
        seen = set() if llm else {tool.name for tool in _tools(place)}
    facts = call_facts("llm" if llm else "tool", name, given, agent_tier=tier)
    findings = Detectors().inspect(facts.arguments)
    verdict = policy.evaluate(msgspec.structs.replace(facts, findings=findings))
    redacted = sorted({finding.kind for finding in findings if verdict.redacts(finding)})
    if as_json:
        emit({"verdict": verdict, "redacts": redacted, "findings": findings, "accepted": not waits})
    else:
        _say_verdict(name, verdict, redacted)
        if waits:
            say("this is the policy on disk; until `tappass policy accept` the last accepted one rules")
    if seen and name not in seen:
        complain(f"no tool called {shown(name)} has been seen here; {meant(name, sorted(seen))}")
    if verdict.outcome != "allow":
        raise typer.Exit(NO)


def _say_verdict(name: str, verdict: Verdict, redacted: list[str]) -> None:
    matches = ", ".join(f"{match.id} ({match.source})" if match.source else match.id for match in verdict.matches)
    say(f"{verdict.outcome}  {shown(name)}{f'  by {shown(matches)}' if matches else ''}")
    if verdict.reason:
        say(shown(verdict.reason))
    if redacted:
        say(f"its arguments would be redacted: {', '.join(redacted)}")
    if verdict.scan is not None:
        asked = ((do, getattr(verdict.scan, do)) for do in ("redact", "block", "flag"))
        say("its result would be inspected: " + "; ".join(f"{do} {', '.join(kinds)}" for do, kinds in asked if kinds))
