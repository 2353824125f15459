"""Follow a page of documentation as a reader would: top to bottom, in one fresh directory.

| fence                               | what happens                                                         |
| ----------------------------------- | -------------------------------------------------------------------- |
| ```python                           | runs as a program of its own                                         |
| ```python continues                 | runs after the page's earlier blocks, in their namespace             |
| ```python raises=PolicyBlockError   | must end with that exception                                         |
| ```python title="app.py"            | is written to that file, and runs                                    |
| ```python needs=fastapi             | runs where that module is installed                                  |
| ```yaml policy                      | must pass `tappass policy check`                                     |
| ```yaml title="policy.yaml"         | is written; a policy must pass the check too                         |
| ```toml title="tappass.toml"        | is written; so is any other language's block with a title            |
| ```console                          | its `$ tappass ...` and `$ python ...` lines run and must exit with  |
|                                     | 0, or as a comment at the line's end says: `# exits 1`               |
| ```console not-run                  | is only shown: for what waits for a person or never ends             |
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

SHELLS = {"console", "sh", "bash", "shell", "shell-session"}
COMMAND = re.compile(r"^\$ (?P<line>(?:tappass|python)\b.*?)(?:\s+# (?:exits (?P<status>\d+)|.*))?$")
TIMEOUT_S = 180


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block: where it stands, its language, its words and its text."""

    place: str
    language: str
    words: tuple[str, ...]
    text: str

    def option(self, name: str) -> str:
        return next((word.partition("=")[2] for word in self.words if word.startswith(f"{name}=")), "")


def blocks(page: Path) -> Iterator[Block]:
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "fence":
            line = token.map[0] + 1 if token.map else 0
            language, *words = shlex.split(token.info) or [""]
            yield Block(place=f"{page.name}:{line}", language=language, words=tuple(words), text=token.content)


@dataclass
class Reader:
    """Somebody who does what the page says; `trouble` is where it did not work."""

    directory: Path
    environment: dict[str, str]
    trouble: list[str] = field(default_factory=list)
    earlier: str = ""
    python: str = sys.executable

    def follow(self, block: Block) -> None:
        if (needs := block.option("needs")) and importlib.util.find_spec(needs) is None:
            return
        title = block.option("title")
        if title:
            (self.directory / title).parent.mkdir(parents=True, exist_ok=True)
            (self.directory / title).write_text(block.text)
        if block.language == "python":
            self.run_python(block, title)
        elif block.language == "yaml" and ("policy" in block.words or title.startswith("polic")):
            self.check_policy(block, title)
        elif block.language in SHELLS and "not-run" not in block.words:
            self.run_commands(block)

    def run_python(self, block: Block, title: str) -> None:
        before = self.earlier if "continues" in block.words else ""
        self.earlier = f"{before}\n{block.text}"
        # A file, not -c: a tool's source must be there to be read.
        program = self.directory / (title or "block.py")
        program.write_text(self.earlier)
        done = self.run([self.python, program.name])
        if not title:
            program.unlink()
        raises = block.option("raises")
        if raises and done.returncode:
            last = done.stderr.strip().splitlines()[-1]
            if re.match(rf"([\w.]+\.)?{re.escape(raises)}\b", last):
                return
        if raises or done.returncode:
            self.complain(block, f"should raise {raises}" if raises else "should run", done)

    def check_policy(self, block: Block, title: str) -> None:
        name = title or "checked-policy.yaml"
        (self.directory / name).write_text(block.text)
        done = self.run([self.python, "-m", "tappass", "policy", "check", name])
        if not title:
            (self.directory / name).unlink()
        if done.returncode:
            self.complain(block, "should be a clean policy", done)

    def run_commands(self, block: Block) -> None:
        for line in block.text.splitlines():
            command = COMMAND.match(line)
            if command is None:
                continue
            words = shlex.split(command["line"])
            program = ["-m", "tappass"] if words[0] == "tappass" else []
            done = self.run([self.python, *program, *words[1:]])
            if done.returncode != int(command["status"] or 0):
                self.complain(block, f"`{line}`", done)

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        path = f"{Path(self.python).parent}{os.pathsep}{self.environment['PATH']}"
        return subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment | {"PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )

    def complain(self, block: Block, what: str, done: subprocess.CompletedProcess[str]) -> None:
        shown = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        self.trouble.append(f"{block.place}: {what}; exit code {done.returncode}\n{shown}")
