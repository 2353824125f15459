"""Where the cookbook's main job lies: in the wheel beside this module, in a checkout at its top."""

from __future__ import annotations

import shutil
from pathlib import Path

from tappass.errors import TapPassConfigError

PROGRAM, PAYMENTS = "invoice_agent.py", "payment_agent.py"


def copy_main_job(directory: Path) -> Path:
    """Copy programs, policy, settings and invoices into a project directory; return the main program.

    Raises:
        TapPassConfigError: this installation does not hold them, or they cannot be written.
    """
    package = Path(__file__).resolve().parent
    places = (package / "cookbook", package.parents[1] / "cookbook")
    source = next((place for place in places if (place / PROGRAM).is_file()), None)
    if source is None:
        raise TapPassConfigError("this installation holds no cookbook; run the demo from a checkout or a whole wheel")
    try:
        shutil.copytree(source / "data", directory / "data", copy_function=shutil.copyfile)
        for name in ("policy.yaml", "tappass.toml"):
            shutil.move(directory / "data" / name, directory / name)
        shutil.copyfile(source / PAYMENTS, directory / PAYMENTS)
        return Path(shutil.copyfile(source / PROGRAM, directory / PROGRAM))
    except OSError as error:
        raise TapPassConfigError(f"cannot write the demo's project to {directory} ({error.strerror})") from error
