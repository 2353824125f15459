"""What has a say in a decision beside policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from tappass.engine.judgement import Judgement
from tappass.engine.store.ahead import Ask
from tappass.engine.store.port import Tx


class Gate(ABC):
    """What has a say in a decision beside policy, inside the transaction that records it."""

    @abstractmethod
    def check(self, tx: Tx, judged: Judgement) -> None:
        """Change the judgement, and write what that takes; costs nothing where it does not apply."""

    def asks(self, judged: Judgement) -> Sequence[Ask]:
        """Return what `check` is likely to ask, where that can be told before and is not rare."""
        return ()
