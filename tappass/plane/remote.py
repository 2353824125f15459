"""The remote plane: a server answers, over HTTP; endings travel by way of a durable outbox."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import msgspec

from tappass.enforcement.port import Scanner
from tappass.errors import TapPassConfigError, TapPassConnectionError
from tappass.plane import exchange
from tappass.plane.asyncface import AsyncFace
from tappass.plane.delivery import Delivery
from tappass.plane.exchange import Asking, Reply
from tappass.plane.origin import Origin
from tappass.plane.outbox import DEFAULT_LIMIT, FOLDER, LIMIT, Outbox
from tappass.plane.retrying import attempts
from tappass.plane.scanning import scanner_for
from tappass.plane.syncface import SyncFace
from tappass.plane.transport import READ_S, TIMEOUT, Connections
from tappass.wire.endings import Ending
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, rfc3339
from tappass.wire.obligations import ScanResult
from tappass.wire.service import Closing, Ended
from tappass.wire.sessions import Opening, SessionRecord

STATUSES = ("completed", "failed", "suspended")


class RemotePlane:
    """One server under one key, behind both faces of the port.

    Args:
        origin: the server and the key.
        directory: where the outbox lies unless `TAPPASS_OUTBOX` names a folder.
        transport: stands in for the network, in tests.

    Raises:
        TapPassConnectionError: the outbox cannot be written.
        TapPassConfigError: a setting in the environment is wrong.
    """

    def __init__(self, origin: Origin, directory: Path, *, transport: Any = None) -> None:
        self.origin = origin
        self.name = origin.name
        # Equal urls are the same plane, and another key is another plane.
        self.url = f"{origin.url}#{origin.digest}"
        self.connections = Connections(origin, read_s=_number(TIMEOUT, READ_S), transport=transport)
        folder = Path(os.environ.get(FOLDER) or directory / ".tappass").absolute()
        limit = int(_number(LIMIT, DEFAULT_LIMIT))
        self.outbox = Outbox(folder / f"outbox-{origin.digest}.db", limit=limit)
        self.delivery = Delivery(self.outbox, self.ask, origin.name)
        self._met = False
        self._unasked: set[str] = set()
        self._openings: dict[str, int] = {}
        self.sync = SyncFace(self)
        self.aio = AsyncFace(self)
        if self.outbox.first():
            self.delivery.start()  # what the process before this one left

    # Asking.

    def ask(self, asking: Asking) -> Reply:
        """Send a request, again where that helps, and return what came back.

        Raises:
            TapPassConnectionError: nothing did.
            TapPassConfigError: the server is too old.
        """
        self.meet()
        return self._ask(asking)

    async def aask(self, asking: Asking) -> Reply:
        """Send a request, again where that helps; the event loop stays free. Raises as `ask` does."""
        await self.ameet()
        return await self._aask(asking)

    def meet(self) -> None:
        """See, at first use, that the server is not too old.

        Raises:
            TapPassConnectionError: it does not answer.
            TapPassConfigError: it is too old, or no control plane.
        """
        if not self._met:
            exchange.check_version(self._ask(exchange.HEALTH), self.name)
            self._met = True

    async def ameet(self) -> None:
        """See the same; the event loop stays free."""
        if not self._met:
            exchange.check_version(await self._aask(exchange.HEALTH), self.name)
            self._met = True

    def _ask(self, asking: Asking) -> Reply:
        flow = attempts(asking, self.name)
        try:
            pause = next(flow)
            while True:
                if pause is not None:
                    time.sleep(pause)
                    pause = next(flow)
                    continue
                try:
                    reply = self.connections.send(asking)
                except Exception as error:
                    pause = flow.throw(error)
                else:
                    pause = flow.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _aask(self, asking: Asking) -> Reply:
        flow = attempts(asking, self.name)
        try:
            pause = next(flow)
            while True:
                if pause is not None:
                    await anyio.sleep(pause)
                    pause = next(flow)
                    continue
                try:
                    reply = await self.connections.asend(asking)
                except Exception as error:
                    pause = flow.throw(error)
                else:
                    pause = flow.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    # What both faces do without waiting for the network.

    def opening(self, opening: Opening) -> Opening:
        """Return an opening with an id of ours, so that it may be sent twice."""
        return opening if opening.id else msgspec.structs.replace(opening, id=UUID_IDS.new("ses"))

    def admit(self, task_id: str = "") -> None:
        """Let a call ask only if its ending can be kept; `task_id` is that of one that will be settled from here.

        Raises:
            TapPassConnectionError: the outbox is full, or cannot be written; nothing ran.
        """
        try:
            self.outbox.check_room()
        except TapPassConnectionError:
            if task_id:
                self._unasked.add(task_id)
            raise
        self.delivery.start()

    def record(self, ending: Ending) -> None:
        """Put an ending into the outbox, unless its call was never asked about."""
        if self._unasked and ending.task_id in self._unasked:
            self._unasked.discard(ending.task_id)
            return
        self.outbox.append(Ended(ending=ending, at=_now()))
        self.delivery.start()
        self.delivery.nudge()

    def withhold(self, ending: Ending) -> None:
        """Put the ending of a call whose result nobody could inspect into the outbox, without that result."""
        self.record(msgspec.structs.replace(ending, result=msgspec.UNSET, scan=None, withheld=True))

    def closing(self, session_id: str, status: str) -> int:
        """Put a session's close behind the endings of its calls; return its number in the outbox."""
        if status not in STATUSES:
            raise TapPassConfigError(f"a session is closed as {', '.join(STATUSES)}, not as {status!r}")
        # A close that arrives after the session was reopened is of the time before.
        openings = self._openings.pop(session_id, 0)
        return self.outbox.append(Closing(session_id=session_id, status=status, openings=openings))

    def opened(self, record: SessionRecord) -> SessionRecord:
        """Note an open session."""
        self._openings[record.session_id] = record.openings
        return record

    def abandon(self, ending: Ending) -> None:
        """Queue an ending from a finaliser: takes no lock, raises nothing."""
        self.outbox.later(Ended(ending=ending, at=_now()))
        self.delivery.waken()

    def scanner(self, scan: ScanResult, session_id: str) -> Scanner:
        """Return a reader for one streamed result; the detectors of this installation, else one that withholds it."""
        return scanner_for(scan)

    def shutdown(self) -> None:
        """Deliver what can be delivered in a few seconds, say what is left, let go of connections."""
        if left := self.delivery.stop():
            print(  # noqa: T201
                f"tappass: {left} endings for {self.name} wait in {self.outbox.path}; "
                "the next start with the same url and key delivers them",
                file=sys.stderr,
            )
        self.outbox.close()
        self.connections.close()


def _now() -> str:
    return rfc3339(SYSTEM_CLOCK.time_ns())


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < 1e12:
        raise TapPassConfigError(f"the environment variable {variable} is no number above 0; set it again, or unset it")
    return number
