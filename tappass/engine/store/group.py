"""Group commit: whoever comes first carries out what everybody wants who came meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from tappass.engine.store.ahead import Ask
from tappass.engine.store.port import Tx

T = TypeVar("T")

MOST = 256


class Job:
    """One caller's write: set `result` or `error`, then `done`."""

    __slots__ = ("ahead", "done", "error", "fn", "leads", "result", "wake")

    def __init__(self, fn: Callable[[Tx], Any], ahead: Sequence[Ask] = ()) -> None:
        self.fn, self.ahead = fn, ahead
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = self.leads = False
        self.wake = threading.Lock()
        self.wake.acquire()

    def end(self, *, result: Any = None, error: BaseException | None = None) -> None:
        """Say how it went."""
        self.result, self.error, self.done = result, error, True


class Group:
    """A queue of jobs without a thread of its own: the first caller leads, the others sleep until their job is done.

    Args:
        carry_out: ends some or all of the jobs it is given, the first at least, and raises nothing for their sake.
    """

    def __init__(self, carry_out: Callable[[list[Job]], None]) -> None:
        self._carry_out = carry_out
        self._mutex = threading.Lock()
        self._queue: deque[Job] = deque()
        self._led = False

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

    def _lead(self, own: Job) -> None:
        with self._mutex:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), MOST))]
        try:
            self._carry_out(batch)
        finally:
            own.leads = False
            # An interrupt of the leader is no answer to the others: they are led by the next.
            self._hand_on([job for job in batch if not job.done and job is not own])
            for job in batch:
                if job.done and job is not own:
                    job.wake.release()

    def _hand_on(self, undone: list[Job]) -> None:
        with self._mutex:
            self._queue.extendleft(reversed(undone))
            successor = self._queue[0] if self._queue else None
            if successor is None:
                self._led = False
            else:
                successor.leads = True
        if successor is not None:
            successor.wake.release()

    def _leave(self, job: Job) -> None:
        """Withdraw a job whose caller was interrupted, and lead no further."""
        with self._mutex:
            if job in self._queue:
                self._queue.remove(job)
        if job.leads:
            job.leads = False
            self._hand_on([])
