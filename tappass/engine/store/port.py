"""What the engine asks of a store, whatever database stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from tappass.engine.store.ahead import Ask
from tappass.engine.store.reading import DEFAULT_ORG, Reader
from tappass.wire.events import AuditEvent

T = TypeVar("T")
OnChange = Callable[[str, str], object]

# What a change is about, as `Tx.notify` says it and listeners hear it.
CONTROL, APPROVAL, POLICY, KEY = "control", "approval", "policy", "key"


class Result(Protocol):
    """What a statement found or did."""

    @property
    def rowcount(self) -> int:
        """How many rows were written."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""


class Tx(Protocol):
    """One transaction: the rows and the leaves that are written together or not at all."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> Result:
        """Run one statement (`?` parameters) inside this transaction."""

    def put(self, sql: str, params: Sequence[Any]) -> None:
        """Run an INSERT of one row whose outcome nobody asks for; those of many callers may go together.

        Whoever may meet a row of its own key has looked for it in this transaction before.
        """

    def append(self, event: AuditEvent, content: bytes | None = None) -> AuditEvent:
        """Write the next leaf of the event's organisation, and its content beside it.

        Args:
            event: what happened; its `log_id`, `epoch`, `seq` and `content` are set here.
            content: the bytes to store, already redacted as configured; None stores nothing.

        Returns:
            The event as it stands in the log.
        """

    def next_seq(self, org_id: str) -> int:
        """Return the place in its log of the next leaf of an organisation."""

    def control(self, org_id: str) -> int:
        """Return the number that every change of an organisation's tiers, pins and break-glasses raises."""

    def controlled(self, org_id: str) -> None:
        """Raise that number, and tell whoever listens: what others know of these is old from this transaction on."""

    def notify(self, org_id: str, topic: str) -> None:
        """Tell whoever listens, here and in other processes, once this is committed."""


class Store(Protocol):
    """Rows and leaves in one database.

    Attributes:
        path: where it is, as shown to people: a file, or a url without its password.
        read: everything that can be asked; on connections of its own, so it never waits for a writer.
    """

    path: str
    read: Reader

    def run(self, fn: Callable[[Tx], T], *, ahead: Sequence[Ask] = ()) -> T:
        """Run a writing function in one transaction, after what waits; return its result once that is committed.

        On any exception everything the function wrote is undone and the exception comes out; what waited still does.

        Args:
            fn: may be run again where somebody else's mistake undid the first time.
            ahead: SELECTs that it is going to make: where a question costs a round trip, those of many go together.

        Raises:
            TapPassConnectionError: the database cannot be written; nothing of it was.
        """

    def later(self, fn: Callable[[Tx], object], *, ahead: Sequence[Ask] = ()) -> None:
        """Queue a write for the next `run`, or for 50 ms from now; takes no lock and raises nothing."""

    def flush(self) -> None:
        """Write what waits.

        Raises:
            TapPassConnectionError: the database cannot be written; everything still waits.
        """

    def key_by_digest(self, digest: bytes) -> tuple[Any, ...] | None:
        """Return a key's row, as `credentials.KeyRow` names its columns, whichever organisation it is of."""

    def erase_content(self, seqs: Iterable[int], *, org_id: str = DEFAULT_ORG) -> int:
        """Delete the content of events, for retention or on request; return how many had one. The log still verifies.

        Raises:
            TapPassConnectionError: the database cannot be written; nothing was erased.
        """

    def sync(self) -> None:
        """Have everything committed so far survive power loss.

        Raises:
            TapPassConnectionError: the database cannot be written.
        """

    def scoped(self, org_id: str) -> Store:
        """Return this store as one organisation sees it; where the database can, it shows no row of another one."""

    def on_change(self, callback: OnChange) -> Callable[[], None]:
        """Call `callback(org_id, topic)`, on some thread, after another call or process changed something.

        Where the database cannot say what changed, both are empty. Return what ends the subscription.
        """

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Call an action on a thread of the store every so many seconds, until the store is closed."""

    def in_child(self, action: Callable[[], object]) -> None:
        """Call an action in every child that a fork makes, before it goes on."""

    def before_close(self, action: Callable[[], object]) -> None:
        """Call an action when the store is closed, after the last flush."""

    def close(self) -> None:
        """Write what waits, call what asked for it, let go of the database; safe to repeat.

        Raises:
            TapPassConnectionError: what waits could not be written, and is lost with this process.
        """
