"""Correlation tokens over HTTP: who may stamp, what joining opens, what is refused, how keys are published."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import httpx
import pytest

from tappass.engine.audit.keys import log_key
from tappass.engine.signing_keys import KeyPair, Seed
from tappass.verify import CorrelationRefused, Verifier
from tests.engine.test_issuer import parts, signed
from tests.serving import free_port, python_path, serve


class Calling:
    """A server, and agents with keys of their own."""

    def __init__(self, served, directory):
        self.served, self.directory = served, directory
        self.caller, self.called, self.third = (self.agent(name) for name in ("caller", "called", "third"))

    def agent(self, name):
        with self.client(self.served.admin_key) as admin:
            made = admin.post("/agents/register", json={"agent_id": name}).raise_for_status().json()
        return self.client(made["api_key"])

    def client(self, key):
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.served.url, headers=headers, timeout=30, trust_env=False)

    def command(self, *words, **environment):
        """Run a command where the server runs; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "tappass", *words],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": python_path(), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def opened(self):
        """Open a session of the caller's."""
        return self.caller.post("/sessions", json={"name": "order 7"}).raise_for_status().json()["session_id"]

    def stamped(self, session_id, audience="called"):
        answer = self.caller.post(f"/sessions/{session_id}/stamp", json={"audience": audience})
        return answer.raise_for_status().json()["token"]

    def close(self, client, session_id):
        return client.patch(f"/sessions/{session_id}", json={"status": "completed"})

    def status(self, session_id):
        return self.caller.get(f"/sessions/{session_id}").raise_for_status().json()["status"]


@pytest.fixture(scope="module")
def calling(tmp_path_factory):
    directory = tmp_path_factory.mktemp("served")
    port = free_port()
    (directory / "tappass.toml").write_text(f'[server]\nurl = "http://127.0.0.1:{port}"\n')
    with serve(directory, port=port) as served:
        calling = Calling(served, directory)
        yield calling
        for client in (calling.caller, calling.called, calling.third):
            client.close()


def join(client, token, audience="called"):
    return client.post("/sessions/join", json={"token": token, "audience": audience})


def refused(answer, problem):
    assert answer.status_code == 403, answer.text
    body = answer.json()
    assert body["error"]["code"] == f"correlation_{problem}"
    return body["detail"]


def test_what_is_joined_is_the_presenters_own_session_beneath_the_callers(calling):
    session_id = calling.opened()
    token = calling.stamped(session_id)
    record = join(calling.called, token).json()
    assert record["parent"] == session_id != record["session_id"]
    assert record["agent"] == "called"
    assert join(calling.called, token).json()["session_id"] == record["session_id"]


def test_a_token_authenticates_nobody(calling):
    token = calling.stamped(calling.opened())
    for headers in ({}, {"Authorization": f"Bearer {token}"}, {"tappass-correlation": token}):
        body = {"token": token, "audience": "called"}
        answer = httpx.post(f"{calling.served.url}/sessions/join", json=body, headers=headers, trust_env=False)
        assert answer.status_code == 401


def test_only_whose_session_it_is_stamps_a_token_for_it(calling):
    session_id = calling.opened()
    assert calling.caller.post(f"/sessions/{session_id}/stamp", json={"audience": "a"}).status_code == 200
    for client, name in ((calling.called, session_id), (calling.caller, "ses_unknown")):
        answer = client.post(f"/sessions/{name}/stamp", json={"audience": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_session")
    assert calling.caller.post(f"/sessions/{session_id}/stamp", json={}).status_code == 422
    assert calling.caller.post(f"/sessions/{session_id}/stamp", json={"audience": " "}).status_code == 422


def test_each_replay_is_refused_with_its_own_words(calling):
    session_id = calling.opened()
    token = calling.stamped(session_id)
    assert join(calling.called, token).status_code == 200
    said = {
        refused(join(calling.called, token, "elsewhere"), "audience"),
        refused(join(calling.third, token), "credential"),
    }
    calling.close(calling.caller, session_id)
    said.add(refused(join(calling.called, token), "session"))
    assert len(said) == 3


PATHS = {
    "/v1/govern": {"type": "TOOL_CALL", "payload": {"tool": "look", "args": {}}},
    "/v1/chat/completions": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]},
}


def correlation_of(answer):
    """Return where a call was placed, whatever came of it."""
    body = answer.json()
    return body["session_id"] if "session_id" in body else body["tappass"]["session_id"]


def test_the_header_places_a_governed_call(calling):
    session_id = calling.opened()
    body = PATHS["/v1/govern"]
    for audience in ("called", calling.served.url, f"{calling.served.url}/"):
        header = {"tappass-correlation": calling.stamped(session_id, audience)}
        answer = calling.called.post("/v1/govern", json=body, headers=header)
        assert answer.status_code == 200, answer.text
        placed = calling.called.get(f"/sessions/{correlation_of(answer)}").json()
        assert (placed["parent"], placed["agent"]) == (session_id, "called")
    own = {"tappass-correlation": calling.stamped(session_id, "caller")}
    assert correlation_of(calling.caller.post("/v1/govern", json=body, headers=own)) == session_id


@pytest.mark.parametrize("path", PATHS)
def test_a_header_that_does_not_hold_is_refused_and_never_ignored(calling, path):
    session_id = calling.opened()
    header = {"tappass-correlation": calling.stamped(session_id, "somebody else")}
    refused(calling.called.post(path, json=PATHS[path], headers=header), "audience")
    elsewhere = {"tappass-correlation": calling.stamped(session_id, "http://elsewhere"), "host": "elsewhere"}
    refused(calling.called.post(path, json=PATHS[path], headers=elsewhere), "audience")
    header = {"tappass-correlation": calling.stamped(session_id, calling.served.url)}
    assert calling.called.post(path, json=PATHS[path], headers=header).status_code != 403
    refused(calling.third.post(path, json=PATHS[path], headers=header), "credential")
    refused(calling.third.post(path, json=PATHS[path], headers={"tappass-correlation": "x"}), "malformed")
    own = calling.third.post("/sessions", json={}).json()["session_id"]
    named = {"tappass-correlation": "x", "X-TapPass-Session": own}
    refused(calling.third.post(path, json=PATHS[path], headers=named), "malformed")


def test_what_is_expired_foreign_or_forged_is_refused(calling):
    session_id = calling.opened()
    head, body = parts(calling.stamped(session_id))
    # The server's own key: what differs is what the token says.
    key = KeyPair(Seed(calling.directory / ".tappass").read(), "org_local")
    assert join(calling.called, signed(key, head, body)).status_code == 200
    refused(
        join(calling.third, signed(key, head, body | {"exp": body["iat"] - 60, "iat": body["iat"] - 600})), "expired"
    )
    refused(join(calling.third, signed(key, head, body | {"iss": "log_other"})), "issuer")
    refused(join(calling.third, signed(key, head, body | {"org": "org_other"})), "organisation")
    refused(join(calling.third, signed(key, head | {"alg": "none"}, body)), "algorithm")
    refused(join(calling.third, signed(key, head | {"typ": "JWT"}, body)), "type")
    refused(join(calling.third, signed(log_key(calling.directory / ".tappass"), head, body)), "signature")
    stranger = KeyPair(b"\1" * 32, "org_local")
    refused(join(calling.third, signed(stranger, head | {"kid": stranger.key_id}, body)), "key")
    refused(join(calling.third, "not a token"), "malformed")


def test_another_organisations_key_opens_nothing_by_a_token(calling):
    session_id = calling.opened()
    token = calling.stamped(session_id)
    done = calling.command("orgs", "add", "acme", "--json", TAPPASS_ADMIN_KEY=calling.served.admin_key)
    with calling.client(json.loads(done)["key"]) as admin:
        key = admin.post("/agents/register", json={"agent_id": "called"}).raise_for_status().json()["api_key"]
    with calling.client(key) as stranger:
        refused(join(stranger, token), "key")
        header = {"tappass-correlation": token}
        refused(stranger.post("/v1/govern", json=PATHS["/v1/govern"], headers=header), "key")
        assert stranger.post(f"/sessions/{session_id}/stamp", json={"audience": "a"}).status_code == 404
    assert join(calling.called, token).status_code == 200


def test_joining_and_leaving_never_close_the_original(calling):
    session_id = calling.opened()
    joined = join(calling.called, calling.stamped(session_id)).json()["session_id"]
    assert calling.close(calling.called, joined).json()["status"] == "completed"
    assert calling.status(session_id) == "open"
    assert calling.close(calling.called, session_id).status_code == 404
    assert calling.status(session_id) == "open"


def test_offline_a_token_is_verified_by_what_the_server_publishes(calling):
    session_id = calling.opened()
    token = calling.stamped(session_id)
    assert Verifier(calling.served.url, audience="called").verify(token).sid == session_id
    with pytest.raises(CorrelationRefused):
        Verifier(calling.served.url, audience="third").verify(token)
    published = httpx.get(f"{calling.served.url}/.well-known/jwks.json", trust_env=False)
    assert published.headers["cache-control"] == "public, max-age=60"
    assert {key["kid"] for key in published.json()["keys"]} >= {parts(token)[0]["kid"]}
    assert all(set(key) == {"kid", "x", "kty", "crv", "alg", "use"} for key in published.json()["keys"])


def test_a_key_rotated_under_a_running_server_signs_at_once(calling):
    session_id = calling.opened()
    before = calling.stamped(session_id)
    calling.command("issuer", "rotate", TAPPASS_ADMIN_KEY=calling.served.admin_key)
    after = calling.stamped(session_id)
    assert parts(after)[0]["kid"] != parts(before)[0]["kid"]
    assert join(calling.called, before).status_code == join(calling.called, after).status_code == 200
