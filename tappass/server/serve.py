"""Running the server: one process or several on one socket, stopped gracefully."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from tappass.engine.approver import identity
from tappass.engine.keys import Keys, MadeKey
from tappass.engine.leaves import Leaves
from tappass.engine.organisations import Organisations
from tappass.engine.store.opening import open_store, without_password
from tappass.errors import TapPassConfigError
from tappass.server import logs
from tappass.server.app import make_app
from tappass.server.connections import BoundedConnection
from tappass.server.house import House
from tappass.wire.ids import SYSTEM_CLOCK

# How long calls in flight may take to end once the server is told to stop.
GRACE_S = 10


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served and where; travels to worker processes.

    Attributes:
        database: `sqlite:///path` or `postgresql://…`.
        state: the directory of the key files.
    """

    database: str
    state: Path
    host: str = "127.0.0.1"
    port: int = 9620
    workers: int = 1

    def __call__(self) -> Any:
        """Make the app, in the process that serves it."""
        logs.configure()
        return make_app(self.house())

    def house(self) -> House:
        """Open the database.

        Raises:
            TapPassConnectionError: it cannot be opened.
            TapPassConfigError: its kind is unknown, or a newer tappass wrote it.
        """
        return House(open_store(self.database), self.state, url=without_password(self.database))


def prepare(serving: Serving) -> MadeKey | None:
    """Write what a database needs before it is served first; return the admin key if it was made just now.

    Raises:
        TapPassConnectionError: the database cannot be written.
        TapPassConfigError: the policy that it would be served with is wrong.
    """
    house = serving.house()
    try:
        Organisations(house.store).settle_in()
        house.plane().pipelines.current()
        return Keys(house.store, Leaves(SYSTEM_CLOCK)).first(identity())
    finally:
        house.stop()


def run(serving: Serving, announce: Callable[[str, MadeKey | None], None]) -> None:
    """Serve until told to stop.

    Args:
        serving: what, and where.
        announce: called once with the address and the admin key, if one was made, as soon as the address is taken.

    Raises:
        TapPassConfigError: the address is in use, or cannot be had.
    """
    # The server hands signals on once it has stopped; by then this is all that is left to do.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    listening = _listen(serving.host, serving.port)
    made = prepare(serving)
    announce(_address(listening), made)
    config = uvicorn.Config(
        serving,
        factory=True,
        workers=serving.workers,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_S,
        http=BoundedConnection,
        ws="none",
    )
    if serving.workers > 1:
        Multiprocess(config, [listening]).run()
    else:
        uvicorn.Server(config).run([listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise TapPassConfigError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port") from error
    listening.set_inheritable(True)
    return listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
