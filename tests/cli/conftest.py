"""A project directory of one's own, and the command line run in it as a program or, faster, in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tappass import PolicyBlockError, tappass_session, tool
from tappass.session.registry import registry
from tappass.toolspec import release_names

POLICY = """\
version: 1
default: allow
rules:
  - id: mail-stays-inside
    tool: send_email
    when: '!args.to.endsWith("@acme.com")'
    effect: block
    classification: CONFIDENTIAL
  - id: mask-crm
    tool: crm_*
    effect: redact
    fields: [result]
    kinds: [EMAIL]
"""


class Answered:
    """What a command said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.out}\n{self.err}"


Command = Callable[..., Answered]


@pytest.fixture
def tappass() -> Command:
    """Run a command in this process."""
    from tappass.cli.app import app

    def run(*words: object, stdin: str = "") -> Answered:
        done = CliRunner().invoke(app, [str(word) for word in words], input=stdin, prog_name="tappass")
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        return Answered(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def program() -> Command:
    """Run a command as a program of its own."""

    def run(*words: object, **environment: str) -> Answered:
        done = subprocess.run(
            [sys.executable, "-m", "tappass", *map(str, words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            env=os.environ | environment,
        )
        return Answered(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def project() -> Path:
    """A directory with a policy, before `tappass init`."""
    Path("policy.yaml").write_text(POLICY)
    return Path.cwd()


@pytest.fixture
def recorded(project: Path, tappass: Command) -> str:
    """A project in which a session ran, and its id: one mail sent, one blocked, one look-up masked."""
    assert tappass("init").code == 0
    return work()


def work(name: str = "nightly", **metadata: str) -> str:
    """Do governed work here; let go of the database afterwards, as the end of a process would."""

    @tool
    def send_email(to: str, body: str = "hi") -> str:
        return f"sent to {to}"

    @tool
    def crm_lookup(customer: str) -> dict[str, str]:
        return {"customer": customer, "email": "jane@acme.com"}

    with tappass_session(name=name, metadata=metadata) as session:
        send_email("billing@acme.com")
        with tappass_session(name="inner"), pytest.raises(PolicyBlockError):
            send_email("eve@evil.example")
        assert crm_lookup("C-1")["email"] == "[EMAIL]"
    registry.shutdown()
    release_names()
    return session.session_id
