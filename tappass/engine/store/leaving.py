"""Stores that are open when the process ends are closed then: what waits in them is written."""

from __future__ import annotations

import atexit
import logging
import weakref

from tappass.engine.store.port import Store
from tappass.errors import TapPassConnectionError

open_stores: weakref.WeakSet[Store] = weakref.WeakSet()

_log = logging.getLogger("tappass.store")


@atexit.register
def _close_all() -> None:
    for store in list(open_stores):
        try:
            store.close()
        except TapPassConnectionError as error:
            _log.error("%s", error)
