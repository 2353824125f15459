"""A model call whose answer comes in pieces: each is shown when nothing in it can still be masked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tappass.enforcement.action import Call, status_of
from tappass.enforcement.effects import Flow, OpenScanner, Run, Settle, do
from tappass.enforcement.flow import admit, ended, note, seen
from tappass.enforcement.obligations import bounded, scan_of
from tappass.enforcement.verdicts import redacted, withheld
from tappass.errors import PolicyBlockError
from tappass.interception import ModelCall
from tappass.wire.endings import COMPLETED, Settlement

if TYPE_CHECKING:
    from tappass.enforcement.port import Scanner
    from tappass.wire.decisions import Decision


class ModelStream(ModelCall):
    """One streamed model call between two hooks of a framework.

    call = ModelStream(model, messages)
    arguments = call.before()
    for piece in model(**arguments):
        show(call.feed(piece))         # what is safe to show, perhaps nothing yet
    show(call.finish())                # what was held back; the next text starts anew
    call.after()
    """

    _scanner: Scanner | None = None
    _decision: Decision | None = None

    @property
    def scans(self) -> bool:
        """Whether anything of the answer may have to be masked; decided by `before`."""
        return self._scanner is not None

    def feed(self, text: str) -> str:
        """Take the next piece of a text; return what may be seen now.

        Raises:
            PolicyBlockError: it holds something that must not be shown.
            RedactionApplied: the caller asked for an error rather than a redacted text.
        """
        scanner = self._scanner
        return text if scanner is None else self._checked(scanner, lambda: scanner.feed(text))

    def finish(self) -> str:
        """Return what was held back of a text that ends here; raises what `feed` raises."""
        scanner = self._scanner
        return "" if scanner is None else self._checked(scanner, scanner.finish)

    def _checked(self, scanner: Scanner, read: Callable[[], str]) -> str:
        assert self._decision is not None, "before() comes first"
        assert self._call is not None
        try:
            text = read()
        except PolicyBlockError as error:
            refused = Settlement(withheld_by=error.blocked_by, reason=error.reason)
            raise withheld(refused, self.name, self._decision.correlation) from None
        if self._call.raise_on_redaction and scanner.redactions:
            raise redacted(scanner.redactions, text, self.name, self._decision.correlation, ran=True)
        return text

    def _flow(self, call: Call) -> Flow[Any]:
        self._decision = decision = yield from admit(call)
        try:
            args, kwargs = bounded(call, decision)
            if (scan := scan_of(decision)) is not None:
                self._scanner = yield from do(OpenScanner(scan, call.scope.session_id))
            result = yield Run(call.run, args, kwargs, call.task_id)
        except GeneratorExit:
            raise
        except BaseException as error:
            yield from ended(call.ending(status_of(error), error, **seen(self._scanner)))
            note(call, error)
            raise
        yield from do(Settle(call.ending(COMPLETED, **seen(self._scanner))))
        return result
