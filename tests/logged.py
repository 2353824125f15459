"""Every line that a run of tests logs, and every key that is made in it: none of these may stand in any of those."""

from __future__ import annotations

import logging
import re
import secrets
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Keys and resume tokens by their shape, also those that another process made.
SHAPES = re.compile(r"tp_(?:(?:admin|approver|auditor)_)?[A-Za-z0-9_-]{40,}|tp_resume_[a-z0-9_]+\.[0-9a-f]{16,}")
_SHORTEST = 20


class Logged:
    """What was logged so far, each line once, and the random texts that keys were made of."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}
        self._made: set[str] = set()

    def line(self, record: logging.LogRecord) -> None:
        """Keep a record as any handler would show it."""
        try:
            text = record.getMessage()
        except Exception:  # a record that nobody can format is shown by nobody
            text = f"{record.msg} {record.args}"
        if record.exc_info and record.exc_info[0] is not None:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info))
        self._lines |= dict.fromkeys(f"{record.name}: {line}" for line in text.splitlines())

    def made(self, text: str) -> str:
        """Keep a random text that a key, or another secret, is made of."""
        if len(text) >= _SHORTEST:
            self._made.add(text)
        return text

    def leaks(self) -> list[str]:
        """Return the lines that show a secret, with the secret taken out."""
        patterns = "|".join([SHAPES.pattern, *map(re.escape, sorted(self._made))])
        secret = re.compile(patterns)
        return [secret.sub("<secret>", line) for line in self._lines if secret.search(line)]


@contextmanager
def logged() -> Iterator[Logged]:
    """Yield what is logged, and made, in this process until the end."""
    watch, record_of, random_text = Logged(), logging.getLogRecordFactory(), secrets.token_urlsafe

    def noted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = record_of(*args, **kwargs)
        watch.line(record)
        return record

    # Where records are made, not by a handler: tests, and the server, take handlers away.
    logging.setLogRecordFactory(noted)
    secrets.token_urlsafe = lambda nbytes=None: watch.made(random_text(nbytes))
    try:
        yield watch
    finally:
        logging.setLogRecordFactory(record_of)
        secrets.token_urlsafe = random_text
