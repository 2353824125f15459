"""Running the server: one process or several on one socket, stopped gracefully."""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from uvicorn.supervisors import Multiprocess

from tappass.engine.approver import identity
from tappass.engine.audit.shared_keys import hold_to_shared_keys
from tappass.engine.keys import Keys, MadeKey
from tappass.engine.leaves import Leaves
from tappass.engine.organisations import Organisations
from tappass.engine.store.opening import POSTGRESQL, SQLITE, kind_of, open_store, without_password
from tappass.errors import TapPassConfigError
from tappass.plane.connect import database_of, home_of
from tappass.server import logs, metrics
from tappass.server.app import make_app
from tappass.server.connections import BoundedConnection
from tappass.server.house import House
from tappass.wire.ids import SYSTEM_CLOCK

# How long calls in flight may take to end once the server is told to stop.
GRACE_S = 10
_LOCAL = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served and where; travels to worker processes.

    Attributes:
        database: `sqlite:///path` or `postgresql://…`.
        state: the directory of the key files.
        rekey: those of the directory count from now on, whatever the database's servers had before.
    """

    database: str
    state: Path
    host: str = "127.0.0.1"
    port: int = 9620
    workers: int = 1
    rekey: bool = False

    @property
    def home(self) -> Path:
        """Where policy and settings lie: where an SQLite database belongs, else where the server is started."""
        return home_of(database_of(self.database)) if kind_of(self.database) == SQLITE else Path.cwd()

    def __call__(self) -> Any:
        """Make the app, in the process that serves it."""
        logs.configure()
        if (parent := multiprocessing.parent_process()) is not None:
            threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
        return make_app(self.house())

    def house(self) -> House:
        """Open the database.

        Raises:
            TapPassConnectionError: it cannot be opened.
            TapPassConfigError: its kind is unknown, or a newer tappass wrote it.
        """
        house = self._house("normal")
        if house.storage == SQLITE and house.settings().audit.synchronous == "full":
            house.stop()
            house = self._house("full")
        return house

    def _house(self, synchronous: str) -> House:
        store = open_store(self.database, synchronous=synchronous)
        return House(store, self.state, url=without_password(self.database), home=self.home)


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """What whoever starts a server is told: its address, the admin key if it was made just now, and what to mind."""

    address: str
    key: MadeKey | None
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Announcement(address={self.address!r})"


def prepare(serving: Serving, address: str) -> Announcement:
    """Write what a database needs before it is served first.

    Raises:
        TapPassConnectionError: the database cannot be written.
        TapPassConfigError: the policy that it would be served with is wrong, or its other servers have other keys.
    """
    house = serving.house()
    try:
        Organisations(house.store).settle_in()
        if house.storage == POSTGRESQL:
            hold_to_shared_keys(house.store, serving.state, rekey=serving.rekey)
        url = house.settings().server.url
        notes = [*house.warnings()]
        if url.rstrip("/") != address and serving.host in _LOCAL:
            notes.append(f"links in records begin with {url}; set `url` under [server] to where people reach this")
        if serving.host not in _LOCAL:
            notes.append("keys travel as they are written: put TLS in front of this address")
        key = Keys(house.store, Leaves(SYSTEM_CLOCK)).first(identity())
        return Announcement(address=address, key=key, notes=tuple(notes))
    finally:
        house.stop()


def run(serving: Serving, announce: Callable[[Announcement], None]) -> None:
    """Serve until told to stop.

    Args:
        serving: what, and where.
        announce: called once, as soon as the address is taken and the database is there.

    Raises:
        TapPassConnectionError: the database cannot be reached.
        TapPassConfigError: the address cannot be had, or the policy is wrong.
    """
    # The server hands signals on once it has stopped; by then this is all that is left to do.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    listening = _listen(serving.host, serving.port)
    announce(prepare(serving, _address(listening)))
    config = uvicorn.Config(
        serving,
        factory=True,
        workers=serving.workers,
        loop="uvloop",
        http=BoundedConnection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    if serving.workers == 1:
        uvicorn.Server(config).run([listening])
        return
    with tempfile.TemporaryDirectory(prefix="tappass-metrics-") as directory:
        os.environ[metrics.DIRECTORY] = directory
        logs.configure()
        Multiprocess(config, [listening]).run()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    """Stop this worker when whoever started it is gone: nobody else would."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named: the event loop only then turns off the delay that waits for more to send.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
