"""The process's registry: its planes by url, its open sessions by id, its implicit sessions by plane."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from tappass import forking
from tappass.errors import TapPassError
from tappass.session.session import COMPLETED, Options, Session
from tappass.wire.sessions import Opening

if TYPE_CHECKING:
    from tappass.enforcement.port import Plane


class Registry:
    """What this process has open. Fork: correlation stays, locks are new; planes look after their connections."""

    def __init__(self) -> None:
        self._lock = forking.Lock()
        # Of its own: the other is held while a plane is made or asked.
        self._entering = forking.Lock()
        self._planes: dict[str, Plane] = {}
        self._sessions: dict[str, list[Session]] = {}
        self._implicit: dict[str, Session] = {}
        self._directory = ""
        self._armed = False

    def _after_fork(self) -> None:
        # Another process opened it and will close it: this one's own calls belong to one of its own.
        self._implicit.clear()

    def plane(self, url: str, make: Callable[[], Plane]) -> Plane:
        """Return the plane of that name, made once per process."""
        with self._lock:
            if not self._armed:
                # Not at import: that must stay free of side effects.
                os.register_at_fork(after_in_child=self._after_fork)
                self._armed = True
            if url not in self._planes:
                with forking.opening:
                    self._planes[url] = make()
                # Last come, first called: sessions are closed before a store, loaded by `make`, closes itself.
                atexit.unregister(self.shutdown)
                atexit.register(self.shutdown)
            return self._planes[url]

    def directory(self) -> str:
        """Return the working directory that this process had when it was first asked for."""
        if not self._directory:
            self._directory = os.getcwd()
        return self._directory

    def forget_plane(self, url: str) -> None:
        """Let go of a plane and shut it down; the next `plane` makes a new one."""
        with self._lock:
            plane = self._planes.pop(url, None)
            implicit = self._implicit.pop(url, None)
        if plane is not None:
            _close(implicit)
            plane.shutdown()

    def forget_implicit(self, url: str) -> None:
        """Close a plane's implicit session; the next call outside any session opens another."""
        with self._lock:
            implicit = self._implicit.pop(url, None)
        _close(implicit)

    def add(self, session: Session) -> None:
        """Note an open session; one that several requests have joined is noted for each."""
        with self._entering:
            self._sessions.setdefault(session.session_id, []).append(session)

    def discard(self, session: Session) -> None:
        """Forget a session that was closed or left."""
        with self._entering:
            entered = [other for other in self._sessions.pop(session.session_id, ()) if other is not session]
            if entered:
                self._sessions[session.session_id] = entered

    def session(self, session_id: str) -> Session | None:
        """Return an open session of this process by id."""
        entered = self._sessions.get(session_id)
        return entered[-1] if entered else None

    def implicit(self, plane: Plane) -> Session:
        """Return the session for calls outside any, opened at the first such call.

        It latches no refusals: it lives as long as the process.
        """
        url = plane.sync.url
        found = self._implicit.get(url)
        if found is not None:
            return found
        with self._lock:
            if url not in self._implicit:
                record = plane.sync.open(Opening(name="implicit", kind="implicit", implicit=True))
                self._implicit[url] = Session(record, plane, Options(), latch=None)
            return self._implicit[url]

    def shutdown(self) -> None:
        """Close implicit sessions and shut every plane down; at exit, and between tests."""
        self._directory = ""
        for url in list(self._planes):
            try:
                self.forget_plane(url)
            except TapPassError as error:
                import logging  # nobody is left to raise it to

                logging.getLogger("tappass").error("%s", error)


def _close(session: Session | None) -> None:
    if session is not None:
        # At exit there is nobody to tell; the record shows the session as still open.
        with contextlib.suppress(TapPassError):
            session.plane.sync.close(session.session_id, COMPLETED)


registry = Registry()
