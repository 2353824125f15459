"""`tappass serve`: up soon, stopped gracefully, one admin key."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.serving import serve


def test_a_server_is_ready_and_prints_one_admin_key(tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        print(served.ready_s, served.output)
        key = served.admin_key
        assert key.startswith("tp_admin_")
        health = httpx.get(f"{served.url}/health").json()
        assert set(health) >= {"status", "version", "storage", "agents", "uptime_seconds"}
        assert served.stop() == 0
        served.admin_key = ""
        served.output = ""
        served.start()
        assert "tp_admin_" not in served.output + served.errors
