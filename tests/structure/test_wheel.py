"""A wheel built from this tree and installed by itself: what it holds, asks for, loads, and says without an extra."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.conftest import OUTSIDE
from tests.structure.pages import Reader, blocks
from tests.structure.wheels import run

ROOT = Path(__file__).resolve().parents[2]
BASE = {"anyio", "decorator", "httpx", "msgspec", "wrapt"}
EXTRAS = {"embedded", "local-llm"}
HEAVY = {
    "anyio",
    "httpx",
    "sqlalchemy",
    "alembic",
    "sqlite3",
    "wrapt",
    "typer",
    "rich",
    "yaml",
    "cel_expr_python",
    "re2",
}
FRAMEWORKS = {
    "a2a",
    "agents",
    "anthropic",
    "crewai",
    "fastapi",
    "fastmcp",
    "google",
    "langchain",
    "langchain_core",
    "langgraph",
    "mcp",
    "openai",
    "starlette",
    "temporalio",
}
PUBLIC = "from tappass import tool, governed, tappass_session, Agent"
FIRST_CALL = """
from tappass import TapPassConfigError, tool

@tool
def greet(name: str) -> str:
    return f"hello {name}"

try:
    print(greet("Ada"))
except TapPassConfigError as error:
    print("refused:", error)
"""

# One worker builds the wheel and its environments once.
pytestmark = pytest.mark.xdist_group("wheel")


@pytest.fixture(scope="module")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lock's versions without its hashes, which would forbid the wheel itself."""
    file = tmp_path_factory.mktemp("pins") / "pins.txt"
    file.write_text("\n".join(re.findall(r"^[a-z]\S+==\S+", (ROOT / "requirements.lock").read_text(), re.M)))
    return file


@pytest.fixture(scope="module")
def python(wheel: Path, pins: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment's Python, with the wheel and only what it asks for."""
    directory = tmp_path_factory.mktemp("fresh environment")
    run(sys.executable, "-m", "venv", directory, cwd=directory)
    interpreter = directory / "bin" / "python"
    run(interpreter, "-m", "pip", "install", "--quiet", "--constraint", pins, wheel, cwd=directory)
    return interpreter


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> list[tuple[str, str]]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode()).items()


def values(metadata: list[tuple[str, str]], header: str) -> list[str]:
    return [value for name, value in metadata if name == header]


def test_base_install_asks_for_exactly_five_packages(metadata: list[tuple[str, str]]) -> None:
    required = values(metadata, "Requires-Dist")
    base = {re.split(r"[<>=!~ ;\[]", line)[0] for line in required if "extra ==" not in line}
    assert base == BASE


def test_every_extra_is_declared_and_no_two_share_a_name(metadata: list[tuple[str, str]]) -> None:
    extras = [re.sub(r"[-_.]+", "-", extra).lower() for extra in values(metadata, "Provides-Extra")]
    assert len(extras) == len(set(extras))
    assert set(extras) >= EXTRAS


def test_wheel_holds_both_packages_with_every_resource_beside_their_code(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "tappass", "adapters", cwd=ROOT)
    expected = {
        name.removeprefix("adapters/")
        for name in listed.splitlines()
        if name.startswith(("tappass/", "adapters/tappass_adapters/"))
    }
    assert {"tappass/py.typed", "tappass_adapters/py.typed"} <= held
    assert {name for name in held if not name.startswith(("tappass/", "tappass_adapters/"))} == set()
    assert not {name for name in expected - held if (ROOT / name).exists()}


def test_wheel_names_its_licence_and_the_pythons_it_runs_on(metadata: list[tuple[str, str]], wheel: Path) -> None:
    assert values(metadata, "License-Expression") == ["Apache-2.0"]
    assert values(metadata, "Requires-Python") == [">=3.11"]
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())


def test_public_names_import_from_the_base_install(python: Path, tmp_path: Path) -> None:
    run(python, "-W", "error", "-c", PUBLIC, cwd=tmp_path)


@pytest.mark.parametrize("statement", ["import tappass", PUBLIC])
def test_import_loads_no_client_no_database_and_no_framework(python: Path, tmp_path: Path, statement: str) -> None:
    # In both environments: absence proves nothing where a module is not installed.
    for interpreter in (python, Path(sys.executable)):
        code = f"{statement}\nimport sys; print(*sys.modules)"
        loaded = set(run(interpreter, "-c", code, cwd=tmp_path).split())
        assert loaded.isdisjoint(HEAVY | FRAMEWORKS)


def test_first_governed_call_names_the_missing_extra_and_a_command_that_installs_it(
    wheel: Path, pins: Path, python: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    shutil.copytree(python.parent.parent, environment, symlinks=True)
    own = environment / "bin" / "python"

    refused = run(own, "-c", FIRST_CALL, cwd=tmp_path)
    assert refused.startswith("refused:")
    assert refused.count("\n") == 1
    assert "`embedded`" in refused
    assert wheel.as_uri() in refused

    command = shlex.split(refused.split("install it with: ")[1])
    assert Path(command[0]) == own
    run(*command, cwd=tmp_path, PIP_CONSTRAINT=str(pins))

    assert "hello Ada" in run(own, "-c", FIRST_CALL, cwd=tmp_path)


@pytest.mark.parametrize("entry", [["-m", "tappass"], ["-c", "from tappass.__main__ import main; main()"]])
def test_command_line_without_its_extra_says_so_in_one_line(python: Path, tmp_path: Path, entry: list[str]) -> None:
    done = subprocess.run(
        [python, *entry, "--help"], cwd=tmp_path, env=OUTSIDE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("tappass: the command line needs tappass's extra `embedded`")


def test_the_pytest_plugin_does_no_harm_where_the_engine_is_missing(python: Path, pins: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    shutil.copytree(python.parent.parent, environment, symlinks=True)
    own = environment / "bin" / "python"
    run(own, "-m", "pip", "install", "--quiet", "--constraint", pins, "pytest", cwd=tmp_path)
    (tmp_path / "test_it.py").write_text("def test_it():\n    assert 1\n")
    assert "1 passed" in run(
        own, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", tmp_path / "test_it.py", cwd=tmp_path
    )


def test_the_commands_for_operating_it_work_from_a_wheel_in_a_fresh_environment(
    wheel: Path, pins: Path, python: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    shutil.copytree(python.parent.parent, environment, symlinks=True)
    own = environment / "bin" / "python"
    run(own, "-m", "pip", "install", "--quiet", "--constraint", pins, f"{wheel}[embedded]", cwd=tmp_path)
    (tmp_path / "home").mkdir(exist_ok=True)
    environment_of = {name: value for name, value in OUTSIDE.items() if name != "PYTHONPATH"}
    reader = Reader(
        directory=tmp_path / "operated", environment=environment_of | {"HOME": str(tmp_path / "home")}, python=str(own)
    )
    reader.directory.mkdir()
    followed = list(blocks(ROOT / "docs" / "operations.md"))
    assert any("tappass restore" in block.text for block in followed)
    for block in followed:
        reader.follow(block)
    assert not reader.trouble, "\n\n".join(["", *reader.trouble])
