"""Export a plane's log and verify it with the public key alone, as an outsider would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tappass.engine.audit.export import export
from tappass.engine.audit.report import Report
from tappass.engine.audit.verify import verify


def verify_plane(plane: Any, directory: Path) -> Report:
    path = directory / "export.jsonl"
    with path.open("wb") as file:
        header = export(plane.engine.store, file, plane.log_key)
    report = verify(path, header.key)
    assert report.ok, report.lines()
    return report
