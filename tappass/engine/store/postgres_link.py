"""Connections to one PostgreSQL database: opened when needed, kept while they are sound, dropped by a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import psycopg
from psycopg import conninfo
from psycopg._preparing import PrepareManager
from psycopg.pq import TransactionStatus

from tappass.errors import TapPassConfigError, TapPassConnectionError

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

# Found dead within a quarter of a minute, where the network says nothing.
_PATIENCE = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "application_name": "tappass",
}
# Not what owns the tables: nothing it runs can go round row security or change a leaf.
_BECOME = (
    "SELECT set_config('role', rolname, false) FROM pg_roles"
    " WHERE rolname = 'tappass_service' AND pg_has_role(session_user, oid, 'MEMBER')"
)
# What is answered is durable; and a process that was stopped inside a transaction may not stop all the others.
_SETTINGS = (
    "SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'"
    " ELSE current_setting('synchronous_commit') END, false),"
    " set_config('idle_in_transaction_session_timeout', '30s', false), set_config('lock_timeout', '30s', false)"
)
# Of SQLSTATE classes that psycopg counts among mistakes: a standby, and a transaction that stood still for too long.
_OUTAGES = ("25006", "25P03", "25P04")

_carried_over: list[Connection] = []


class _Prepared(PrepareManager):
    """What is prepared on one connection, kept through a rollback.

    psycopg deallocates everything after a command that answers ROLLBACK, for a table may be gone; in a pipeline that
    also hits statements prepared since, which it believes are there. These connections make and drop no tables, and
    PostgreSQL keeps prepared statements through a rollback.
    """

    def _should_discard(self, *_: Any, **__: Any) -> bool:
        return False


class Address:
    """Where a database is.

    Attributes:
        shown: the url without its password, for people.

    Raises:
        TapPassConfigError: nobody can read it.
    """

    def __init__(self, dsn: str) -> None:
        try:
            parts = conninfo.conninfo_to_dict(dsn)
        except psycopg.Error:
            # Without its cause, which quotes the url and the password in it.
            raise TapPassConfigError(
                "the database url cannot be read; write `postgresql://user:password@host:5432/name`, "
                "special characters in the password percent-encoded"
            ) from None
        self._dsn = conninfo.make_conninfo(dsn, **{k: v for k, v in _PATIENCE.items() if k not in parts})
        user, host, port = (parts.get(name) for name in ("user", "host", "port"))
        place = f"{host or 'localhost'}{f':{port}' if port else ''}".replace("/", "%2F")
        self.shown = f"postgresql://{f'{user}@' if user else ''}{place}/{parts.get('dbname') or user or ''}"

    def connect(self, *, as_service: bool = True) -> Connection:
        """Open a connection, for serving or, as whoever logs in, for changing tables."""
        connection = psycopg.connect(self._dsn, autocommit=True, prepare_threshold=0)
        connection._prepared = _Prepared()
        connection.prepared_max = 500
        try:
            if as_service:
                connection.execute(_BECOME, prepare=False)
            connection.execute(_SETTINGS, prepare=False)
        except BaseException:
            connection.close()
            raise
        return connection


class Pool:
    """At most so many connections; who comes when all are in use waits."""

    def __init__(self, address: Address, most: int) -> None:
        self._address, self._most = address, most
        self._keeps = True
        self.renew()

    def renew(self) -> None:
        """Start without a connection: in a fork's child."""
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._free = threading.Semaphore(self._most)

    @contextmanager
    def borrowed(self) -> Iterator[tuple[Connection, bool]]:
        """Lend a connection, and say whether it was in use before; one that is left inside something is closed."""
        with self._free:
            used = bool(self._idle)
            connection = self._idle.pop() if used else self._address.connect()
            self._all.add(connection)
            try:
                yield connection, used
            except psycopg.Error:
                # What was prepared in a pipeline that failed is not, though psycopg believes it is.
                connection.close()
                raise
            finally:
                if self._keeps and connection.info.transaction_status is TransactionStatus.IDLE:
                    self._idle.append(connection)
                else:
                    self._all.discard(connection)
                    connection.close()

    def drop(self) -> None:
        """Close what is not in use."""
        while self._idle:
            connection = self._idle.pop()
            self._all.discard(connection)
            connection.close()

    def close(self) -> None:
        """Close what is not in use, and keep nothing from now on."""
        self._keeps = False
        self.drop()

    def leak(self) -> None:
        """Let go of what a fork carried over, without a word to the server: it would end the parent's connection."""
        for connection in self._all:
            carried_over(connection)
        self.renew()


def carried_over(connection: Connection) -> None:
    """Have a connection of the parent's go nowhere in this child, and never be closed."""
    _carried_over.append(connection)
    try:
        descriptor = connection.fileno()
    except psycopg.Error:
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(nowhere, descriptor)
    finally:
        os.close(nowhere)


def is_outage(error: BaseException) -> bool:
    """Tell whether the database, rather than what was written to it, is at fault."""
    if isinstance(error, psycopg.errors.PipelineAborted):
        return False
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or (
        isinstance(error, psycopg.Error) and error.sqlstate in _OUTAGES
    )


def cannot_record(shown: str, error: BaseException) -> TapPassConnectionError:
    """Return the error for a caller whose record could not be written."""
    return TapPassConnectionError(
        f"cannot write the audit record to {shown} ({_said(error)}); nothing ran; {_remedy(error)}"
    )


def cannot_read(shown: str, error: BaseException) -> TapPassConnectionError:
    """Return the error for a reader."""
    return TapPassConnectionError(f"cannot read {shown} ({_said(error)}); {_remedy(error)}")


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _remedy(error: BaseException) -> str:
    state = getattr(error, "sqlstate", None) or ""
    if state == "25006":
        return "it only reads; name the primary server in the url"
    if state.startswith("28"):
        return "check the user and the password in the url"
    if state.startswith("53"):
        return "give it more room: disk, memory or connections"
    if state in ("55P03", "25P03"):
        return "another server held the log for too long; try again"
    return "check that PostgreSQL is running and can be reached, then try again"
