"""`tappass doctor`: what is installed and set up here, and what to do about what is not."""

from __future__ import annotations

import os
import platform
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tappass.cli.console import emit, say, shown
from tappass.cli.exits import NO
from tappass.cli.frameworks import FRAMEWORKS, asked_for, framework_checks, version_of
from tappass.cli.looks import NOTE, OK, PROBLEM, Check, Checks
from tappass.cli.options import Json
from tappass.cli.place import Place, here
from tappass.errors import TapPassError
from tappass.extras import missing

if TYPE_CHECKING:
    from tappass.engine.settings import Settings

_STYLES = {OK: "green", NOTE: "yellow", PROBLEM: "bold red"}


def doctor(as_json: Json = False) -> None:
    """Look at this installation and this directory; exits with 1 if something does not work."""
    with here() as place:
        looks: tuple[Callable[[], Checks], ...] = (
            _python, _extras, lambda: _database(place), lambda: _policy(place), lambda: _upstreams(place),
            _local_model, lambda: _keys(place), framework_checks,
        )  # fmt: skip
        checks = [check for look in looks for check in _looked(look)]
    if as_json:
        emit(checks)
    else:
        _show(checks)
    if any(check.state == PROBLEM for check in checks):
        raise typer.Exit(NO)


def _looked(look: Callable[[], Checks]) -> list[Check]:
    try:
        return list(look())
    except ImportError as error:
        return [Check(what="extra embedded", state=PROBLEM, found=f"cannot be imported: {error}")]
    except TapPassError as error:
        return [Check(what="here", state=PROBLEM, found=str(error))]


def _show(checks: list[Check]) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    table = Table("state", "what", Column("found", overflow="fold"), box=None, pad_edge=False, show_header=False)
    for check in checks:
        table.add_row(Text(check.state, style=_STYLES[check.state]), check.what, Text(shown(check.found)))
    say(table)
    remedies = [check for check in checks if check.remedy]
    for check in remedies:
        say("", f"{check.what}: {shown(check.remedy)}")


def _python() -> Checks:
    from tappass import __version__

    yield Check(what="python", state=OK, found=f"{platform.python_version()} at {sys.executable}")
    yield Check(what="tappass", state=OK, found=f"{__version__} at {Path(__file__).parents[1]}")


def _extras() -> Checks:
    """Compare what each extra asks for with what is installed; a framework's is looked at with the framework."""
    frameworks = {row.extra for row in FRAMEWORKS}
    for extra, packages in sorted(asked_for().items()):
        if extra in frameworks:
            continue
        absent = [package for package in packages if version_of(package) is None]
        if absent:
            advice = str(missing(extra, "what it is for"))
            yield Check(what=f"extra {extra}", state=NOTE, found=f"without {', '.join(absent)}", remedy=advice)
        else:
            yield Check(what=f"extra {extra}", state=OK, found="installed")


def _database(place: Place) -> Checks:
    if not place.database.exists():
        yield Check(what="database", state=NOTE, found=f"none at {place.database}", remedy="run `tappass init`")
        return
    from tappass.engine.store.migrate import HEAD

    head = place.store.read.head()
    # A transaction that writes nothing is what tells whether one could.
    place.store.run(lambda tx: tx.execute("SELECT 1"))
    size = head.size if head else 0
    yield Check(what="database", state=OK, found=f"{place.database}, schema {HEAD}, {size} events, writable")


def _policy(place: Place) -> Checks:
    if not place.database.exists():
        return
    pipelines = place.pipelines()
    accepted, pending = pipelines.accepted(), pipelines.pending()
    if accepted is None:
        yield Check(what="policy", state=NOTE, found="none accepted yet", remedy="run `tappass init`")
        return
    found = f"{accepted.uuid}, accepted by {accepted.accepted_by} at {accepted.accepted_at}"
    if pending is None:
        yield Check(what="policy", state=OK, found=found)
    elif pending.problem:
        yield Check(what="policy", state=PROBLEM, found=f"{found}; what is on disk is wrong", remedy=pending.problem)
    else:
        remedy = "review the change, then run `tappass policy accept`"
        yield Check(what="policy", state=NOTE, found=f"{found}; what is on disk differs", remedy=remedy)


def _settings(place: Place) -> Settings:
    from tappass.engine.policy.files import find_files

    return find_files(place.home).load_settings()


def _upstreams(place: Place) -> Checks:
    for upstream in _settings(place).upstreams:
        what, found = f"upstream {upstream.match}", upstream.base_url
        if upstream.key_env and not os.environ.get(upstream.key_env):
            remedy = f"set {upstream.key_env} where the agent runs"
            yield Check(what=what, state=NOTE, found=f"{found}, {upstream.key_env} is not set here", remedy=remedy)
        else:
            yield Check(what=what, state=OK, found=found)


def _local_model() -> Checks:
    from tappass.engine import local_model

    weights = local_model.installed_weights()
    if weights is None:
        remedy = "run `tappass model install`, or configure [[upstream]] in tappass.toml"
        yield Check(what="local model", state=NOTE, found="its weights are not installed", remedy=remedy)
    else:
        yield Check(what="local model", state=OK, found=f"{local_model.NAME}, {weights}")


def _keys(place: Place) -> Checks:
    if not place.database.exists():
        return
    from tappass.engine.approver import Approvers
    from tappass.engine.leaves import Leaves
    from tappass.wire.ids import SYSTEM_CLOCK

    approver = Approvers(place.store, Leaves(SYSTEM_CLOCK)).file()
    for path in [*sorted(place.database.parent.glob("*.key")), approver, place.database]:
        what = f"file {path.name}" if path != approver else "approver key"
        if not path.exists():
            remedy = "run `tappass init`, or set TAPPASS_APPROVER_KEY"
            yield Check(what=what, state=NOTE, found=f"not in {path}", remedy=remedy)
        elif path.stat().st_mode & 0o077:
            found = f"{path} has mode {stat.S_IMODE(path.stat().st_mode):o}"
            yield Check(what=what, state=PROBLEM, found=found, remedy=f"chmod 600 {path}")
        else:
            yield Check(what=what, state=OK, found=f"{path}, mode 600")
