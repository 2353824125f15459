"""The page about the command line has a heading for every command, and every exit code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from tappass.cli import exits
from tappass.cli.app import app

PAGE = (Path(__file__).resolve().parents[2] / "docs/cli.md").read_text()


def commands(group: Any, name: str) -> Iterator[str]:
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield f"{name} {word}"
            yield from commands(command, f"{name} {word}")
        elif word != "list":
            # `list` is what its group does without a word, and told there.
            yield f"{name} {word}"


def test_every_command_has_a_heading_and_every_such_heading_a_command() -> None:
    headings = re.findall(r"^## (tappass .*)$", PAGE, re.MULTILINE)
    assert sorted(headings) == sorted(commands(typer.main.get_command(app), "tappass"))


def test_every_exit_code_is_documented() -> None:
    codes = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)} == codes


def test_every_command_says_in_its_help_what_it_does() -> None:
    def check(group: Any) -> None:
        for command in group.commands.values():
            assert command.help, command.name
            if hasattr(command, "commands"):
                check(command)

    check(typer.main.get_command(app))
