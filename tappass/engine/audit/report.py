"""What a verification found."""

from __future__ import annotations

import msgspec


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong; `seq` is the first event concerned, and `last_seq` the last one that may be."""

    seq: int
    what: str
    last_seq: int

    def __str__(self) -> str:
        place = f"event {self.seq}" if self.seq == self.last_seq else f"events {self.seq} to {self.last_seq}"
        return f"{place}: {self.what}"


class OpenDecision(msgspec.Struct, frozen=True, kw_only=True):
    """A call that was allowed and has no ending: it was running, or its process was killed."""

    seq: int
    task_id: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an export proves.

    Attributes:
        log_id: which log it is.
        events: how many leaves were read.
        problems: what is wrong, the first first; nothing after the first is certain.
        signed_to: how many events the newest checkpoint in the export covers.
        witnessed_to: how many the newest checkpoint supplied from elsewhere covers; None if none was supplied.
        open: decisions without an ending, by session.
    """

    log_id: str
    events: int
    problems: tuple[Problem, ...]
    signed_to: int
    witnessed_to: int | None
    open: dict[str, list[OpenDecision]]

    @property
    def ok(self) -> bool:
        """Nothing is wrong, as far as it can be told."""
        return not self.problems

    @property
    def first_bad_seq(self) -> int | None:
        """The first sequence number that is wrong, or None."""
        return self.problems[0].seq if self.problems else None

    @property
    def tail_provable(self) -> bool:
        """A checkpoint from elsewhere covers every event there is."""
        return self.witnessed_to is not None and self.witnessed_to == self.events

    def lines(self) -> list[str]:
        """Say it in plain words, a sentence a line."""
        said = [*self._verdict(), *self._tail()]
        if unsettled := sum(map(len, self.open.values())):
            said.append(f"{unsettled} calls were allowed and have no ending, in {len(self.open)} sessions")
        return said

    def _verdict(self) -> list[str]:
        if self.ok:
            return [f"verified: {self.events} events of {self.log_id}, none edited, missing or moved"]
        first, *others = self.problems
        return [f"NOT VERIFIED: {first}", *(f"also: {other}" for other in others)]

    def _tail(self) -> list[str]:
        if self.witnessed_to is None:
            return [
                "tail not provable: no checkpoint from elsewhere was given, so a cut at the end, a fork or a rewrite "
                "by the holder of the key would not show"
            ]
        if self.witnessed_to < self.events:
            return [
                f"tail not provable: the newest checkpoint from elsewhere covers {self.witnessed_to} events; "
                "what follows rests on the log's own signature"
            ]
        return []
