"""What every route shares: who may call it, what an error looks like, what it takes, and that all of it is described.

Routes that come later are covered as soon as they are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest
from litestar import Litestar, get, post
from litestar.routes import HTTPRoute

from tappass import errors
from tappass.engine.approver import Approver
from tappass.engine.credentials import ADMIN, AGENT, APPROVER, AUDITOR
from tappass.engine.keys import Keys
from tappass.engine.leaves import Leaves
from tappass.engine.organisations import Organisations
from tappass.engine.store.sqlite import SqliteStore
from tappass.engine.trust import Agents
from tappass.server.app import make_app
from tappass.server.auth import PAGE, PUBLIC, scopes_of
from tappass.server.house import House
from tappass.server.limits import FAILURES
from tappass.wire.correlation import Correlation
from tappass.wire.findings import Redaction
from tappass.wire.ids import SYSTEM_CLOCK

SCOPES = (ADMIN, AGENT, APPROVER, AUDITOR)
BY = Approver(person_id="per_1", name="ada", key_id="key_1")
WRONG = "tp_admin_this-is-nobodys-key"


class Desk:
    """An app over a fresh database, and keys of two organisations."""

    def __init__(self, directory: Path, routes: list[Any] | None = None) -> None:
        self.store = SqliteStore(directory / "tappass.db")
        self.house = House(self.store, directory, url=f"sqlite:///{directory}/tappass.db")
        Organisations(self.store).settle_in()
        other = Organisations(self.store).add("Acme")
        self.keys = self._keys(Leaves(SYSTEM_CLOCK))
        self.others = self._keys(Leaves(SYSTEM_CLOCK, other.org_id, other.project_id))
        self.app = make_app(self.house, routes)

    def _keys(self, leaves: Leaves) -> dict[str, str]:
        Agents(self.store, leaves).add(BY, "clerk")
        keys = Keys(self.store, leaves)
        return {scope: keys.create("ada", scope, name="clerk").key for scope in SCOPES}

    def ask(self, method: str, path: str, key: str = "", **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers |= options.pop("headers", {})

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://plane.test") as client:
                return await client.request(method, path, headers=headers, **options)

        return anyio.run(send)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.store.close()


def routes(app: Litestar) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return method, path and scopes of everything that asks for a key."""
    found = []
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for each in route.route_handlers:
                scopes = scopes_of(each.opt)
                if scopes and scopes[0] not in (PUBLIC, PAGE):
                    found += [(str(method), route.path_format, scopes) for method in each.http_methods]
    return sorted(found)


def filled(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "00000000-0000-4000-8000-000000000000", path)


def is_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert {"type", "title", "detail", "message", "reason"} <= body.keys()
    assert set(body["error"]) == {"message", "type", "code", "param"}
    return body


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("shared"))
    yield made
    made.store.close()


def test_there_are_routes_that_ask_for_a_key(shared: Desk) -> None:
    assert ("POST", "/agents/register", (ADMIN,)) in routes(shared.app)


def test_without_a_key_every_route_answers_401(shared: Desk) -> None:
    for method, path, _ in routes(shared.app):
        answer = shared.ask(method, filled(path))
        assert is_problem(answer, 401)["error"]["type"] == "authentication_error", path
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header", [f"Bearer {WRONG}", "Bearer", "Bearer ", "Basic dHA6eA==", "tp_x", "Bearer \xff", f"Bearer {'x' * 9000}"]
)
def test_with_a_wrong_key_every_route_answers_401_or_429(shared: Desk, header: str) -> None:
    for method, path, _ in routes(shared.app):
        answer = shared.ask(method, filled(path), headers={"Authorization": header.encode("latin-1")})
        assert answer.status_code in (401, 429), path
        assert WRONG not in answer.text


def test_with_another_scopes_key_every_route_answers_403(shared: Desk) -> None:
    for method, path, scopes in routes(shared.app):
        for scope in set(SCOPES) - set(scopes):
            body = is_problem(shared.ask(method, filled(path), shared.keys[scope]), 403)
            assert body["error"]["code"] == "scope", (path, scope)


def test_with_a_right_key_no_route_answers_as_without_one(shared: Desk) -> None:
    for method, path, scopes in routes(shared.app):
        if path.endswith(("/wait", "/stream")):
            continue
        for scope in scopes:
            answer = shared.ask(method, filled(path), shared.keys[scope])
            assert answer.status_code not in (401, 403, 405, 500), (method, path, scope, answer.text)


def test_what_another_organisation_has_is_not_there(shared: Desk) -> None:
    made = shared.ask("POST", "/agents/register", shared.keys[ADMIN], json={"agent_id": "mine"}).json()
    assert shared.ask("GET", f"/agents/{made['agent_uuid']}", shared.keys[ADMIN]).json()["agent_id"] == "mine"
    answer = shared.ask("GET", f"/agents/{made['agent_uuid']}", shared.others[ADMIN])
    nobody = shared.ask("GET", "/agents/00000000-0000-4000-8000-000000000000", shared.others[ADMIN])
    assert is_problem(answer, 404) == is_problem(nobody, 404)


def test_every_route_refuses_what_is_no_json(shared: Desk) -> None:
    for method, path, scopes in routes(shared.app):
        if method not in ("POST", "PUT", "PATCH"):
            continue
        for kind in ("text/plain", "multipart/form-data; boundary=x", "application/json; charset=utf-16"):
            options = {"content": b"{}", "headers": {"Content-Type": kind}}
            is_problem(shared.ask(method, filled(path), shared.keys[scopes[0]], **options), 415)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"nonsense", b"\xff\xfe", b'{"agent_id": "\xff"}', b'{"agent_id": "\\ud800"}', b"[" * 100_000,
        b'{"a":' * 50_000, b"[" * 150 + b"]" * 150, b"null", b"[]", b"1e999", b'"' * 1_000_000,
    ],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
def test_every_route_refuses_a_malformed_body_by_422(shared: Desk, body: bytes) -> None:
    for method, path, scopes in routes(shared.app):
        if method in ("POST", "PUT", "PATCH") and shared.app.openapi_schema.paths[path].post is not None:
            if body == b"[]" or shared.app.openapi_schema.paths[path].post.request_body is None:
                continue
            options = {"content": body, "headers": {"Content-Type": "application/json"}}
            answer = shared.ask(method, filled(path), shared.keys[scopes[0]], **options)
            assert answer.status_code in (400, 404, 422), (path, answer.status_code, answer.text)


def test_a_field_that_is_wrong_is_named_and_its_value_is_not(desk: Desk) -> None:
    told = {"agent_id": "x", "framework": ["a value of ours"]}
    body = is_problem(desk.ask("POST", "/agents/register", desk.keys[ADMIN], json=told), 422)
    assert body["error"]["param"] == "framework"
    assert "framework" in body["detail"]
    assert "a value of ours" not in str(body)
    body = is_problem(desk.ask("POST", "/agents/register", desk.keys[ADMIN], json={}), 422)
    assert "agent_id" in body["detail"]


def test_an_unknown_address_is_404_and_an_unknown_method_405_with_those_there_are(desk: Desk) -> None:
    is_problem(desk.ask("GET", "/nothing/here"), 404)
    is_problem(desk.ask("GET", "/nothing"), 404)
    for method in ("GET", "DELETE", "OPTIONS"):
        answer = desk.ask(method, "/agents/register", desk.keys[ADMIN])
        if method != "GET":
            assert is_problem(answer, 405)
            assert "POST" in answer.headers["allow"]


def test_after_many_wrong_keys_an_address_waits_and_a_right_key_still_passes(desk: Desk) -> None:
    answers = [desk.ask("GET", "/agents/x", f"{WRONG}{number}") for number in range(FAILURES + 2)]
    assert [answer.status_code for answer in answers] == [401] * FAILURES + [429] * 2
    assert 0 < int(answers[-1].headers["retry-after"]) <= 61
    assert desk.ask("GET", "/agents/x", desk.keys[ADMIN]).status_code == 404


class Asked(msgspec.Struct):
    """A body."""

    text: str


IDS = Correlation(session_id="ses_1", task_id="tsk_1", agent_uuid="a", pipeline_uuid="p", audit_url="http://u/1")
SECRET = "what went wrong inside, with a payload"
REFUSALS = [
    (
        errors.PolicyBlockError("no", blocked_by="rule-1", classification="SECRET", correlation=IDS),
        403,
        {"decision": "policy_block", "blocked_by": "rule-1", "classification": "SECRET", "details": {}},
    ),
    (
        errors.RedactionApplied(
            "no",
            redactions=(Redaction(kind="EMAIL", start=1, end=2, replacement="[EMAIL]", where="/args/to"),),
            redacted_content={"to": "[EMAIL]"},
            correlation=IDS,
        ),
        403,
        {
            "decision": "redaction_applied",
            "redactions": [{"kind": "EMAIL", "start": 1, "end": 2, "replacement": "[EMAIL]"}],
            "redacted_content": '{"to":"[EMAIL]"}',
        },
    ),
    (
        errors.ApprovalRequired("no", approval_url="http://u", resume_token="t", expires_at="2026", correlation=IDS),
        428,
        {"decision": "approval_required", "approval_url": "http://u", "resume_token": "t", "expires_at": "2026"},
    ),
    (
        errors.TrustTierDenied("no", required_tier="trusted", actual_tier="standard", correlation=IDS),
        403,
        {"decision": "trust_tier_denied", "required_tier": "trusted", "actual_tier": "standard"},
    ),
    (
        errors.BreakGlassActive("no", level="relax", expires_at="2026", correlation=IDS),
        403,
        {"decision": "break_glass_active", "level": "relax", "expires_at": "2026"},
    ),
    (
        errors.ToolIntegrityViolation("no", tool_name="pay", violation="revoked", correlation=IDS),
        403,
        {"decision": "tool_integrity_violation", "tool_name": "pay", "violation": "revoked"},
    ),
]


def raising(directory: Path, error: Exception) -> Desk:
    @get("/raise", opt={"scope": PUBLIC})
    async def fail() -> None:
        raise error

    return Desk(directory, [fail])


@pytest.mark.parametrize(("error", "status", "fields"), REFUSALS, ids=lambda value: type(value).__name__)
def test_each_of_the_six_refusals_has_its_body(tmp_path: Path, error: Exception, status: int, fields: Any) -> None:
    desk = raising(tmp_path, error)
    body = is_problem(desk.ask("GET", "/raise"), status)
    desk.store.close()
    assert body.items() >= {**fields, **msgspec.structs.asdict(IDS), "message": "no", "reason": "no"}.items()
    assert body["error"]["code"] == fields["decision"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.TapPassConnectionError(SECRET), 503),
        (RuntimeError(SECRET), 500),
        (KeyError(SECRET), 500),
        (RecursionError(SECRET), 422),
    ],
)
def test_what_goes_wrong_inside_stays_inside(tmp_path: Path, error: Exception, status: int) -> None:
    desk = raising(tmp_path, error)
    answer = desk.ask("GET", "/raise")
    desk.store.close()
    is_problem(answer, status)
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text
    assert ("retry-after" in answer.headers) == (status == 503)


def test_a_route_that_does_not_say_who_may_call_it_is_not_served(tmp_path: Path) -> None:
    @post("/open")
    async def open_to_all(data: Asked) -> None:
        """Forget to say."""

    with pytest.raises(RuntimeError, match="/open does not say"):
        Desk(tmp_path, [open_to_all])


def test_the_description_names_every_route_its_key_and_what_it_may_answer(shared: Desk) -> None:
    described = shared.ask("GET", "/openapi.json").json()
    for method, path, _ in routes(shared.app):
        operation = described["paths"][path][method.lower()]
        assert operation["security"] == [{"key": []}], path
        assert {"401", "403", "429", "500", "503"} <= operation["responses"].keys(), path
        assert "400" not in operation["responses"], path
        if "requestBody" in operation:
            assert {"408", "413", "415", "422"} <= operation["responses"].keys(), path
        assert operation["summary"], path
    assert "Problem" in described["components"]["schemas"]
    assert "security" not in described["paths"]["/health"]["get"]


def test_metrics_are_for_admins_and_name_no_ids(desk: Desk) -> None:
    desk.ask("GET", "/agents/0193-some-id", desk.keys[ADMIN])
    assert desk.ask("GET", "/metrics").status_code == 401
    text = desk.ask("GET", "/metrics", desk.keys[AUDITOR]).text
    assert 'route="/agents/{agent_uuid}"' in text
    assert "some-id" not in text


@pytest.mark.parametrize(("setting", "status"), [("open", 200), ("off", 404)])
def test_who_reads_metrics_is_a_setting(tmp_path: Path, setting: str, status: int) -> None:
    state = tmp_path / ".tappass"
    state.mkdir()
    (tmp_path / "tappass.toml").write_text(f'[server]\nmetrics = "{setting}"\n')
    desk = Desk(state)
    assert desk.ask("GET", "/metrics").status_code == status
    desk.store.close()
