"""What users' own tests stand on."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
sys.modules["pytest"] = None
from tappass import tool
from tappass.testing import memory_plane
with memory_plane() as plane:
    assert tool(lambda: 1)() == 1
    assert [e.outcome for e in plane.events(type="call.decided")] == ["allow"]
"""


def test_a_plane_in_memory_needs_no_pytest():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
