"""`tappass init`: policy, settings, database and approver key for a project; safe to run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tappass.cli.console import emit, say, shown
from tappass.cli.options import Json
from tappass.cli.place import Place, here
from tappass.errors import TapPassConfigError

IGNORED = ".tappass/"


class Initialised(msgspec.Struct, frozen=True, kw_only=True):
    """What `tappass init` found and made; `made` names the files that are new."""

    directory: str
    database: str
    made: list[str]
    pipeline_uuid: str
    accepted_by: str
    pending: bool
    approver: str
    approver_key_file: str


def init(
    new_key: Annotated[
        bool, typer.Option("--new-approver-key", help="Replace your approver key; the old one is revoked.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Set up this directory: policy.yaml, tappass.toml, the database, the approver key; overwrites nothing."""
    with here() as place:
        done = initialise(place, new_key=new_key)
    if as_json:
        emit(done)
        return
    for name in done.made:
        say(f"made      {shown(name)}")
    say(
        f"policy    {done.pipeline_uuid}, accepted by {shown(done.accepted_by)}",
        f"approver  {shown(done.approver)}; the key is in {shown(done.approver_key_file)}",
    )
    if done.pending:
        say("pending   policy or settings changed since; review them, then run `tappass policy accept`")
    say("", "Next: edit policy.yaml, then `tappass policy check`, `tappass policy accept`.")


def initialise(place: Place, *, new_key: bool = False) -> Initialised:
    """Make what is not there yet.

    Raises:
        TapPassConfigError: the policy that is there is wrong, or the approver key is elsewhere.
        TapPassConnectionError: the database cannot be made.
    """
    from tappass.engine.approver import Approvers, identity
    from tappass.engine.leaves import Leaves
    from tappass.wire.ids import SYSTEM_CLOCK

    # What somebody, or a tool, changed since calls first ran here is for a person to see before it rules.
    waits = place.database.exists() and place.pipelines().changed()
    written = _write_templates(place.home)
    made = [*written, *_make_database(place.database)]
    approvers = Approvers(place.store, Leaves(SYSTEM_CLOCK))
    pipelines = place.pipelines()
    if pipelines.accepted() is None or (written and not waits and not approvers.exist()):
        # Once there is a key only its holder accepts: or removing policy.yaml and this command would bring it down.
        pipelines.accept(identity())
    key = approvers.make(anew=new_key)
    made += [str(key.path)] if key.fresh else []
    made += _ignore(place.home)
    current = pipelines.accepted()
    return Initialised(
        directory=str(place.home),
        database=str(place.database),
        made=made,
        pipeline_uuid=current.uuid if current is not None else "",
        accepted_by=current.accepted_by if current is not None else "",
        pending=pipelines.pending() is not None,
        approver=key.name,
        approver_key_file=str(key.path),
    )


def _make_database(database: Path) -> list[str]:
    from tappass.engine.store.sqlite import SqliteStore

    try:
        database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if database.parent.name == IGNORED.rstrip("/"):
            # A governed call may have made it first, for everybody to look into.
            database.parent.chmod(0o700)
    except OSError as error:
        raise TapPassConfigError(f"cannot make {database.parent} ({error.strerror})") from error
    if database.exists():
        return []
    SqliteStore(database).close()
    return [str(database)]


def _ignore(home: Path) -> list[str]:
    """Have git ignore the database, where there is git."""
    if not any((directory / ".git").exists() for directory in (home, *home.parents)):
        return []
    file = home / ".gitignore"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    if {".tappass", "/.tappass", IGNORED, f"/{IGNORED}"} & {line.strip() for line in text.splitlines()}:
        return []
    gap = "" if text.endswith("\n") or not text else "\n"
    with file.open("a", encoding="utf-8") as out:
        out.write(f"{gap}{IGNORED}\n")
    return [f"{IGNORED} in {file}"]


def _write_templates(home: Path) -> list[str]:
    """Write the policy and the settings that are not there yet."""
    from tappass.engine.policy.files import POLICY, SETTINGS, find_files
    from tappass.engine.policy.templates import POLICY_YAML, SETTINGS_TOML

    there = find_files(home)
    wanted = [] if there.policies else [(home / POLICY, POLICY_YAML)]
    wanted += [] if there.settings else [(home / SETTINGS, SETTINGS_TOML)]
    try:
        for path, text in wanted:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise TapPassConfigError(f"cannot write to {home} ({error.strerror})") from error
    return [str(path) for path, _ in wanted]
