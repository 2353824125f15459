"""Group commit: whoever comes first carries out what everybody wants who came meanwhile."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias, TypeVar, cast

from tappass.engine.store.ahead import Ask
from tappass.engine.store.port import Tx

T = TypeVar("T")

MOST = 256
# A thread that leads goes after so long without a job.
LINGER_S = 10.0

_log = logging.getLogger("tappass.store")


class Job:
    """One caller's write: set `result` or `error`, then `done`.

    Args:
        fn: what to run in a transaction.
        ahead: SELECTs that it is going to make.
        told: where no thread waits for the job, who hears that it is done, with all others of the same transaction.
    """

    __slots__ = ("ahead", "done", "error", "fn", "leads", "result", "told", "wake")

    def __init__(self, fn: Callable[[Tx], Any], ahead: Sequence[Ask] = (), told: Told | None = None) -> None:
        self.fn, self.ahead, self.told = fn, ahead, told
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = self.leads = False
        self.wake = threading.Lock()
        self.wake.acquire()

    def end(self, *, result: Any = None, error: BaseException | None = None) -> None:
        """Say how it went."""
        self.result, self.error, self.done = result, error, True


Told: TypeAlias = Callable[[list[Job]], object]


class Group:
    """A queue of jobs: the first caller leads, the others sleep until their job is done.

    Where nobody waits whose thread could lead, a thread of the group's own does.

    Args:
        carry_out: ends some or all of the jobs it is given, the first at least, and raises nothing for their sake.
    """

    def __init__(self, carry_out: Callable[[list[Job]], None]) -> None:
        self._carry_out = carry_out
        self._mutex = threading.Lock()
        self._queue: deque[Job] = deque()
        self._led = False
        self._standby = Standby(self._lead_for_others)

    def run(self, fn: Callable[[Tx], T], ahead: Sequence[Ask] = ()) -> T:
        """Have a job carried out; return what came of it, or raise."""
        job = Job(fn, ahead)
        with self._mutex:
            self._queue.append(job)
            job.leads, self._led = not self._led, True
        try:
            if not job.leads:
                job.wake.acquire()
            if not job.done:
                self._lead(job)
        except BaseException:
            self._leave(job)
            raise
        if job.error is not None:
            raise job.error
        return cast(T, job.result)

    def submit(self, job: Job) -> None:
        """Have a job carried out, and whom it names told; waits for nothing."""
        with self._mutex:
            self._queue.append(job)
            led, self._led = self._led, True
        if not led:
            self._standby.call()

    def join(self, batch: list[Job]) -> list[Job]:
        """Add the jobs that came since to those that are being carried out; return them."""
        with self._mutex:
            late = self._taken(MOST - len(batch))
        batch += late
        return late

    def _taken(self, most: int) -> list[Job]:
        return [self._queue.popleft() for _ in range(min(len(self._queue), most))]

    def _lead_for_others(self) -> None:
        while self._lead(None):
            pass

    def _lead(self, own: Job | None) -> bool:
        """Carry out what is queued; return whether the thread that leads for others is to go on."""
        with self._mutex:
            batch = self._taken(MOST)
        try:
            self._carry_out(batch)
        except BaseException:
            if own is not None:
                raise
            self._one_by_one(batch)
        finally:
            if own is not None:
                own.leads = False
            # An interrupt of the leader is no answer to the others: they are led by the next.
            go_on = self._hand_on([job for job in batch if not job.done and job is not own], stays=own is None)
            _tell([job for job in batch if job.done and job is not own])
        return go_on

    def _one_by_one(self, batch: list[Job]) -> None:
        """Find whose interrupt it was: where nobody waits it is an answer as any other."""
        for job in [job for job in batch if not job.done]:
            each = [job]
            try:
                self._carry_out(each)
            except BaseException as error:
                job.end(error=error)
            # Those that joined it.
            batch += each[1:]

    def _hand_on(self, undone: list[Job], *, stays: bool = False) -> bool:
        with self._mutex:
            self._queue.extendleft(reversed(undone))
            successor = self._queue[0] if self._queue else None
            self._led = successor is not None
            if successor is not None and successor.told is None:
                successor.leads = True
        if successor is None:
            return False
        if successor.told is None:
            successor.wake.release()
            return False
        if not stays:
            self._standby.call()
        return stays

    def _leave(self, job: Job) -> None:
        """Withdraw a job whose caller was interrupted, and lead no further."""
        with self._mutex:
            if job in self._queue:
                self._queue.remove(job)
        if job.leads:
            job.leads = False
            self._hand_on([])


class Standby:
    """A thread that leads when it is called; started by the first call, and again after it went for want of one."""

    def __init__(self, lead: Callable[[], None]) -> None:
        self._lead = lead
        self._mutex = threading.Lock()
        self._calls: SimpleQueue[None] = SimpleQueue()
        self._there = False

    def call(self) -> None:
        """Have it lead."""
        with self._mutex:
            self._calls.put(None)
            there, self._there = self._there, True
        if not there:
            threading.Thread(target=self._run, name="tappass-writer", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                self._calls.get(timeout=LINGER_S)
            except Empty:
                with self._mutex:
                    if self._calls.empty():
                        self._there = False
                        return
            else:
                self._lead()


def _tell(done: list[Job]) -> None:
    told: dict[Told, list[Job]] = {}
    for job in done:
        if job.told is None:
            job.wake.release()
        else:
            told.setdefault(job.told, []).append(job)
    for tell, jobs in told.items():
        try:
            tell(jobs)
        except Exception:
            # The next transaction is waited for by others.
            _log.exception("who asked for a write cannot be told that it is done")
