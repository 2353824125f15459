"""The key files that a backup may hold, put where they are missing."""

from __future__ import annotations

import os
from pathlib import Path

from tappass.engine.audit.keys import LOG_KEY_FILE, kept
from tappass.engine.backup.archive import Reading
from tappass.engine.backup.taking import KEY_FILES
from tappass.errors import TapPassConfigError


def put_keys(archive: Reading, directory: Path) -> None:
    """Write the key files that are missing, with mode 0600; those that are there stay as they are.

    Raises:
        TapPassConfigError: there is no `log.key`, neither there nor in the backup.
        TapPassConnectionError: a file cannot be written.
    """
    for name in KEY_FILES:
        if name in archive.manifest.keys:
            kept(directory / name, lambda held=name: archive.key_file(held))  # type: ignore[misc]
    if not os.path.exists(directory / LOG_KEY_FILE):
        raise TapPassConfigError(
            f"there is no {LOG_KEY_FILE} in {directory}, and none in {archive.path}; put the key files there first: "
            "without them the log could not go on"
        )
