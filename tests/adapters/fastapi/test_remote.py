"""Applications behind a real server: keys tell who acts, tokens only where a call belongs."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from tappass_adapters.fastapi import TapPassMiddleware

from tappass import current_session, tappass_session, tool, with_correlation
from tests.adapters.fastapi.conftest import live
from tests.serving import serve


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("served")) as served:
        yield served


def key_of(served, name):
    headers = {"Authorization": f"Bearer {served.admin_key}"}
    answer = httpx.post(f"{served.url}/agents/register", json={"agent_id": name}, headers=headers, trust_env=False)
    return answer.raise_for_status().json()["api_key"]


@tool
def charge_remotely():
    return current_session().agent


def application(served, key, **options):
    app = FastAPI()

    @app.get("/")
    def endpoint():
        return [current_session().parent, charge_remotely()]

    app.add_middleware(TapPassMiddleware, url=served.url, api_key=key, **options)
    return app


def test_a_token_replayed_with_another_key_is_refused_and_the_first_one_goes_on(served):
    caller, first, second = (key_of(served, name) for name in ("caller", "shop", "thief"))
    with (
        live(application(served, first)) as url,
        live(application(served, second, audience="shop")) as elsewhere,
        tappass_session(url=served.url, api_key=caller, name="order") as session,
    ):
        # By default a receiver is known by the name of the agent whose key it holds.
        headers = with_correlation(audience="shop")
        for _ in range(2):
            answer = httpx.get(url, headers=headers, trust_env=False)
            assert answer.json() == [session.session_id, "shop"]
        replayed = httpx.get(elsewhere, headers=headers, trust_env=False)
        assert (replayed.status_code, replayed.json()["error"]["code"]) == (403, "correlation_credential")
        # Neither calls nor sessions of the one who was refused are on record beneath it.
        assert httpx.get(url, headers=headers, trust_env=False).status_code == 200


def test_an_application_that_outlives_its_plane_lets_nothing_run(tmp_path):
    with serve(tmp_path) as served, live(application(served, key_of(served, "shop"))) as url:
        assert httpx.get(url, trust_env=False).status_code == 200
        served.kill()
        answer = httpx.get(url, trust_env=False, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "plane_unavailable")
        served.start()
        assert httpx.get(url, trust_env=False, timeout=60).status_code == 200
