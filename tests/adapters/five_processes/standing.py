"""What the five have in common: a note on disk before anything is done, and a word when they can be reached.

Each is a module that is run by its name; where it finds the others stands in its environment:

| variable | |
| --- | --- |
| `RAN_FILE` | what ran, a line each |
| `PORT` | where it is served |
| `NEXT` | the url, or the address, of the next one |
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import uvicorn

from tappass import current_session


def note(hop: str, **given: Any) -> None:
    """Prove on disk that a governed call runs here, with what it was given and under which decision."""
    session = current_session()
    assert session is not None
    line = json.dumps([hop, session.task_id, session.session_id, given])
    file = os.open(os.environ["RAN_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{line}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)


def ready() -> None:
    """Tell whoever started this process that it can be reached."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()


class _Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        ready()


def serve(app: Any) -> None:
    """Serve an application until this process is killed."""
    _Server(uvicorn.Config(app, port=int(os.environ["PORT"]), log_level="warning", access_log=False)).run()
