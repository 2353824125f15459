"""What no file of the project may hold: a registry's host, a path of one machine, words about how it was written."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPELT_OUT_HERE = Path(__file__).resolve().relative_to(ROOT).as_posix()

FORBIDDEN = {
    # An index is the reader's to choose, and `tappass` on the public one belongs to another publisher.
    "a package registry's host": r"pypi\.org|pythonhosted\.org|registry\.npmjs\.org|deb\.debian\.org|proxy\.golang\.org"
    r"|crates\.io|repo1?\.maven\.org|conda\.anaconda\.org",
    "an install from a public index": r"(pip|pipx|uv|uvx|poetry)3?( tool| pip)? (install|add|run|download) "
    r"(--?[\w-]+ )*['\"]?tappass(\[[\w,-]+\])?['\"]?(\s|$|[=<>~]=)",
    "a path of one machine": r"(?<![\w.:/}])/(work|root|home/(?!you\b|me\b|user\b)\w+|tmp|Users/\w+)/\w",
    "a document that is not in the project": r"\b(design|dependencies|style|frameworks)\.md\b|\bshared/\w+|design §",
    "how it was written": r"co-authored-by|generated (by|with) (an? )?(ai|llm|claude|chatgpt|copilot|cursor)\b"
    r"|claude code|coding (assistant|agent|session)|\bsub-?agent brief|\bissues (show|comment|close)\b"
    r"|as an ai (language )?model,? i",
}


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name and name != SPELT_OUT_HERE and (ROOT / name).is_file()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_tracked_file_holds(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what], re.IGNORECASE)
    found = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name in tracked()
        for number, line in enumerate(text_of(ROOT / name).splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a package registry's host", "--index-url https://pypi.org/simple"),
        ("an install from a public index", "pip install tappass"),
        ("an install from a public index", "$ uv pip install 'tappass[embedded]'"),
        ("an install from a public index", "pip install --upgrade tappass==0.6.0"),
        ("a path of one machine", 'path = "/home/ada/tappass"'),
        ("a path of one machine", "see /tmp/x"),
        ("a document that is not in the project", "as design.md says"),
        ("how it was written", "Co-Authored-By: somebody"),
    ],
)
def test_the_pattern_finds(what: str, line: str) -> None:
    assert re.search(FORBIDDEN[what], line, re.IGNORECASE)


@pytest.mark.parametrize(
    "line",
    [
        "pip install './tappass[embedded]'",
        "pip install dist/tappass-0.6.0-py3-none-any.whl",
        "tappass init",
        "/homework",
    ],
)
def test_no_pattern_finds(line: str) -> None:
    assert not [what for what, pattern in FORBIDDEN.items() if re.search(pattern, line, re.IGNORECASE)]


def test_every_tracked_script_is_executable_and_starts_with_an_interpreter() -> None:
    for name in ("scripts/setup", "scripts/test", "scripts/demo", "scripts/lock", ".ci/run"):
        assert (ROOT / name).stat().st_mode & 0o111
        assert (ROOT / name).read_text().startswith("#!")


def text_of(path: Path) -> str:
    # Binary files hold no lines to judge.
    content = path.read_bytes()
    return "" if b"\0" in content[:8192] else content.decode("utf-8", "replace")
