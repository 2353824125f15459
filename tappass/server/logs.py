"""The server's own log: JSON lines on stderr, without payloads and without keys."""

from __future__ import annotations

import logging

_log = logging.getLogger("tappass.server")


def failed(error: BaseException) -> None:
    """Note what went wrong inside."""
    _log.error("%s", type(error).__name__, exc_info=error)
