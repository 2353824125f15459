"""A real `tappass serve` for tests: a subprocess on a free port, ready when it is given out."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.logged import SHAPES

ROOT = Path(__file__).resolve().parent.parent
READY_S, STOP_S = 30.0, 20.0


class Served:
    """A server that runs, may be killed, and may be started again on the same port.

    Attributes:
        url: its base url.
        admin_key: the admin key it printed at its first start, "" if it printed none.
        output: what it wrote to stdout so far.
        ready_s: how long its last start took until `/health` answered.
    """

    def __init__(self, directory: Path, words: Sequence[str], env: Mapping[str, str], port: int = 0) -> None:
        self.directory, self.port = directory, port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_key, self.output, self.ready_s = "", "", 0.0
        # A line each: a text that grows would be copied for every line, and after many requests cost more than they.
        self._log: list[str] = []
        self._command = [sys.executable, "-m", "tappass", "serve", "--port", str(self.port), *words]
        self._env = {**os.environ, "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1", **env}
        self.process: subprocess.Popen[str] | None = None

    @property
    def errors(self) -> str:
        """What it wrote to stderr so far: its log."""
        return "".join(self._log)

    def start(self) -> Served:
        """Start it and wait until it answers."""
        began = time.monotonic()
        self.process = subprocess.Popen(
            self._command, cwd=self.directory, env=self._env, text=True, encoding="utf-8", errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._readers = [
            threading.Thread(target=self._read, args=(self.process, name), daemon=True) for name in ("stdout", "stderr")
        ]
        for reader in self._readers:
            reader.start()
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() - began > READY_S:
                self.kill()
                raise AssertionError(f"the server did not come up:\n{self.output}\n{self.errors}")
            time.sleep(0.02)
        self.ready_s = time.monotonic() - began
        return self

    def stop(self) -> int:
        """Ask it to stop; return its exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def kill(self) -> None:
        """Kill it and all its workers, without notice."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self._ended()

    def restart(self) -> Served:
        """Start it again on the same port, stopped first if it runs."""
        self.stop()
        return self.start()

    def _ended(self) -> int:
        assert self.process is not None
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            code = self.process.wait(STOP_S)
        for reader in self._readers:
            reader.join(STOP_S)
        self.process.stdout.close()  # type: ignore[union-attr]
        self.process.stderr.close()  # type: ignore[union-attr]
        self.process = None
        # Whatever a test did with it: no key and no resume token ever stands in a log.
        assert not (leaked := SHAPES.findall(self.errors)), f"the log shows {len(leaked)} secrets"
        return code

    def _read(self, process: subprocess.Popen[str], name: str) -> None:
        for line in getattr(process, name):
            if name == "stderr":
                self._log.append(line)
                continue
            self.output += line
            if line.startswith("admin key "):
                self.admin_key = line.split()[2]

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def serve(
    directory: Path, *, database: str | None = None, workers: int = 1, env: Mapping[str, str] | None = None,
    words: Sequence[str] = (), port: int = 0,
) -> Iterator[Served]:  # fmt: skip
    """Yield a server of that directory, ready; it is stopped at the end if it still runs.

    Args:
        directory: where it is started; its `.tappass/` and policy are served.
        database: `postgresql://…` or `sqlite:///…`, else the directory's own.
        workers: how many processes.
        env: variables beside those of this process.
        words: further options of the command.
        port: else a free one.
    """
    options = [*(["--database", database] if database else []), *(["--workers", str(workers)] if workers > 1 else [])]
    served = Served(directory, [*options, *words], env or {}, port)
    try:
        yield served.start()
    finally:
        served.kill() if sys.exc_info()[0] else served.stop()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def python_path() -> str:
    """Return the path by which a subprocess imports this checkout, not the one that is installed."""
    return os.pathsep.join([str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
