"""Decisions for routes: before the endpoint runs, settled after the response, told of in the OpenAPI document."""

from typing import Annotated

import anyio
import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Body, Depends, FastAPI, HTTPException, Query, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from tappass_adapters.fastapi import document_actions, governed_action, governed_endpoint

from tappass import TapPassConfigError
from tests.adapters.fastapi.conftest import eventually, live
from tests.people import ADA

POLICY = """
    version: 1
    rules:
      - {id: csv-only, tool: export, when: 'args.format == "pdf"', effect: block}
      - {id: ask, tool: purge, effect: require_approval}
"""


@pytest.fixture
def ran():
    return []


def test_a_route_is_decided_by_its_parameters_before_it_runs(site, app, tappass_plane, audit_events, ran):
    tappass_plane.policy(POLICY)

    @app.get("/export/{number}", dependencies=[Depends(governed_action("export"))])
    def export(number: int, format: str = "csv"):  # noqa: A002
        ran.append((number, format))

    served = site.put(app)
    assert site.ask(served, path="/export/7").status_code == 200
    answer = site.ask(served, path="/export/7?format=pdf")
    assert (answer.status_code, answer.json()["blocked_by"]) == (403, "csv-only")
    assert ran == [(7, "csv")]
    allowed, blocked = audit_events(type="call.decided", name="export")
    assert (allowed.outcome, blocked.outcome, blocked.kind) == ("allow", "block", "tool")
    assert blocked.session_id == answer.headers["x-tappass-session"]
    assert [event.status for event in audit_events(type="call.ended")] == ["completed"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_policy_sees_is_what_arrived_or_what_is_declared(site, app, tappass_plane, audit_events, ran, backend):
    def declared(number: int, body: Annotated[dict, Body()]):
        return {"number": number, **body}

    @app.get("/plain/{number}")
    async def plain(
        number: int,
        tag: Annotated[list[str], Query()],
        told: Annotated[dict, Depends(governed_action("plain"))],
        limit: int = 10,
        of: Annotated[str | None, Query(alias="from")] = None,
    ):
        return told

    @app.post("/declared/{number}")
    async def declaring(told: Annotated[dict, Depends(governed_action("declared", arguments=declared))]):
        return told

    @app.get("/wrong", dependencies=[Depends(governed_action("wrong", arguments=lambda: 7))])
    def wrong():
        ran.append(1)

    served = site.put(app)
    answer = site.ask(served, path="/plain/7?tag=a&tag=b&x=", backend=backend)
    # As the endpoint takes it, and as text what it does not declare.
    assert answer.json() == {"number": 7, "tag": ["a", "b"], "x": "", "limit": 10, "of": None}
    answer = site.ask(served, path="/plain/7?tag=a&limit=3&from=ann&limit=4", backend=backend)
    assert answer.json() == {"number": 7, "tag": ["a"], "limit": 4, "of": "ann"}
    assert site.ask(served, path="/plain/x?tag=a", backend=backend).status_code == 422
    answer = site.ask(served, "POST", "/declared/7", json={"to": "ann"}, backend=backend)
    assert answer.json() == {"number": 7, "to": "ann"}
    assert site.ask(served, path="/wrong", raises=TapPassConfigError, backend=backend).status_code == 500
    # Policy might see one, and the endpoint take the other.
    for query in ("tag=a&number=8", "tag=a&x=1&x=2", "tag=a&of=ann"):
        answer = site.ask(served, path=f"/plain/7?{query}", backend=backend)
        assert (answer.status_code, answer.json()["blocked_by"]) == (403, "ambiguous-argument")
    assert not ran


def test_a_parameter_in_a_routers_prefix_is_shown_as_the_endpoint_takes_it(site, app, tappass_plane, ran):
    tappass_plane.policy("version: 1\nrules: [{id: not-7, tool: export, when: args.org == 7, effect: block}]")
    inner, outer = APIRouter(), APIRouter(prefix="/of/{kind}")

    def paged(size: int = 10): ...

    @inner.get("/export")
    def export(org: int, kind: str, told: Annotated[dict, Depends(governed_action("export"))]):
        ran.append(org)
        return told

    outer.include_router(inner, prefix="/{org}", dependencies=[Depends(paged)])
    app.include_router(outer)
    served = site.put(app)
    assert site.ask(served, path="/of/firm/5/export").json() == {"kind": "firm", "org": 5, "size": 10}
    assert site.ask(served, path="/of/firm/7/export").json()["blocked_by"] == "not-7"
    # Policy might see one, and the endpoint take the other.
    for path in ("/of/firm/7/export?org=5", "/of/firm/5/export?org=7"):
        assert site.ask(served, path=path).json()["blocked_by"] == "ambiguous-argument"
    assert ran == [5]


def test_parameters_that_a_model_declares_are_shown_as_the_endpoint_takes_them(site, app, tappass_plane, ran):
    tappass_plane.policy("version: 1\nrules: [{id: few, tool: find, when: args.limit > 10, effect: block}]")

    class Filters(BaseModel):
        limit: int = 10
        tags: list[str] = []
        of: str = Field("", alias="from")

    @app.get("/find")
    def find(filters: Annotated[Filters, Query()], told: Annotated[dict, Depends(governed_action("find"))]):
        ran.append(filters)
        return told

    served = site.put(app)
    told = {"limit": 10, "tags": ["a", "b"], "of": "ann"}
    answer = site.ask(served, path="/find?tags=a&tags=b&from=ann&x=1")
    assert answer.json() == {**told, "x": "1", "filters": {"limit": 10, "tags": ["a", "b"], "from": "ann"}}
    assert site.ask(served, path="/find?limit=11").json()["blocked_by"] == "few"
    assert [filters.tags for filters in ran] == [["a", "b"]]


def test_a_route_that_waits_for_people_runs_once_they_have_agreed(site, app, tappass_plane, audit_events, ran):
    tappass_plane.policy(POLICY)

    @app.delete("/purge/{number}", dependencies=[Depends(governed_action("purge"))])
    def purge(number: int):
        ran.append(number)

    served = site.put(app)
    answer = site.ask(served, "DELETE", "/purge/7")
    assert answer.status_code == 428
    assert answer.json()["approval_url"].startswith("http")
    voting = tappass_plane.plane.engine.voting
    token = answer.json()["resume_token"]
    voting.approve(voting.approval_of(token), ADA, "a test")
    headers = {"x-tappass-resume": token}
    assert site.ask(served, "DELETE", "/purge/8", headers=headers).status_code == 403
    assert site.ask(served, "DELETE", "/purge/7", headers=headers).status_code == 200
    assert site.ask(served, "DELETE", "/purge/7", headers=headers).status_code == 403
    assert ran == [7]


def test_an_action_is_settled_when_the_response_is_through(site, app, tappass_plane, audit_events):
    def open_calls():
        return len(audit_events(type="call.decided")) - len(audit_events(type="call.ended"))

    seen = []

    @app.get("/stream", dependencies=[Depends(governed_action("stream"))])
    async def stream(tasks: BackgroundTasks):
        async def body():
            for _ in range(2):
                seen.append(open_calls())
                yield b"x"

        tasks.add_task(lambda: seen.append(open_calls()))
        return StreamingResponse(body())

    with live(site.put(app)) as url:
        assert httpx.get(f"{url}/stream", trust_env=False).content == b"xx"
        (ended,) = eventually(lambda: audit_events(type="call.ended"))
    assert seen == [1, 1, 1]
    assert ended.status == "completed"


@pytest.mark.parametrize("error", [HTTPException(404), KeyError("x")])
def test_an_endpoint_that_fails_settles_its_action_as_failed(site, app, tappass_plane, audit_events, error):
    @app.get("/", dependencies=[Depends(governed_action("failing"))])
    def failing():
        raise error

    served = site.put(app)
    raised = KeyError if isinstance(error, KeyError) else None
    assert site.ask(served, raises=raised).status_code == (500 if raised else 404)
    assert [event.status for event in audit_events(type="call.ended")] == ["failed"]


@pytest.mark.parametrize(
    ("rule", "blocked_by"),
    [
        ("{id: r, tool: show, effect: redact, fields: [result], kinds: [EMAIL]}", "result-not-inspectable"),
        ("{id: r, tool: show, effect: redact, fields: [arguments], kinds: [EMAIL]}", "argument-not-redactable"),
    ],
)
def test_what_nobody_here_could_carry_out_refuses_the_route(site, app, tappass_plane, rule, blocked_by, ran):
    tappass_plane.policy(f"version: 1\nrules: [{rule}]")

    @app.get("/", dependencies=[Depends(governed_action("show"))])
    def show():
        ran.append(1)

    answer = site.ask(site.put(app), path="/?to=ann@acme.com")
    assert (answer.status_code, answer.json()["blocked_by"]) == (403, blocked_by)
    assert not ran


def test_an_action_of_a_router_is_decided_once_a_request(site, app, tappass_plane, audit_events):
    action = governed_action("area")
    router = APIRouter(dependencies=[Depends(action)])

    @router.get("/", dependencies=[Depends(action)])
    def endpoint(): ...

    app.include_router(router)
    assert site.ask(site.put(app)).status_code == 200
    assert len(audit_events(type="call.decided", name="area")) == 1


def test_without_the_middleware_a_refused_route_does_not_run_either(app, added, tappass_plane, ran):
    tappass_plane.policy(POLICY)

    @app.get("/", dependencies=[Depends(governed_action("export"))])
    def endpoint():
        ran.append(1)

    from tappass import PolicyBlockError

    assert added.ask(app, path="/?format=pdf", raises=PolicyBlockError).status_code == 500
    assert not ran


@pytest.mark.parametrize("how", ["added", "around", "by hand", "mounted"])
def test_the_openapi_document_tells_of_refusals(how, tappass_plane):
    from tests.adapters.fastapi.conftest import Site

    app = FastAPI()
    router = APIRouter(prefix="/inner")

    @app.get("/free")
    def free(): ...

    @app.get("/export/{number}", dependencies=[Depends(governed_action("export"))])
    def export(number: int): ...

    def deep(told: Annotated[dict, Depends(governed_action("deep"))]): ...

    @router.post("/deep", dependencies=[Depends(deep)], responses={403: {"description": "mine"}})
    def deeper(): ...

    app.include_router(router, prefix="/v1")
    if how == "by hand":
        document_actions(app)
        document = app.openapi()
    else:
        served, at = app, ""
        if how == "mounted":
            served, at = FastAPI(), "/at"
            served.mount(at, app)
        with live(Site("around" if how == "around" else "added").put(served), lifespan="on") as url:
            document = httpx.get(f"{url}{at}/openapi.json", trust_env=False).json()
        document.pop("servers", None)
    paths = document["paths"]
    assert set(paths["/free"]["get"]["responses"]) == {"200"}
    for path, method in (("/export/{number}", "get"), ("/v1/inner/deep", "post")):
        responses = paths[path][method]["responses"]
        for status in ("403", "428"):
            schema = responses[status]["content"]["application/problem+json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/TapPassProblem"}
    assert responses["403"]["description"] == "mine"
    properties = document["components"]["schemas"]["TapPassProblem"]["properties"]
    assert {"decision", "approval_url", "resume_token", "blocked_by"} <= properties.keys()
    document_actions(app)
    # Where it is mounted is kept in it by some versions.
    assert {key: value for key, value in app.openapi().items() if key != "servers"} == document


# Starlette.


@pytest.mark.parametrize("kind", ["sync", "async", "class"])
def test_an_endpoint_of_starlettes_is_decided_too(site, tappass_plane, audit_events, ran, kind):
    tappass_plane.policy(POLICY)

    @governed_endpoint("export")
    def sync(request):
        ran.append(1)
        return PlainTextResponse("exported")

    @governed_endpoint("export")
    async def asynchronous(request):
        ran.append(1)
        return PlainTextResponse("exported")

    class Export(HTTPEndpoint):
        @governed_endpoint("export")
        async def get(self, request):
            ran.append(1)
            return PlainTextResponse("exported")

    endpoint = {"sync": sync, "async": asynchronous, "class": Export}[kind]
    served = site.put(Starlette(routes=[Route("/export/{number:int}", endpoint)]))
    assert site.ask(served, path="/export/7?format=csv").text == "exported"
    answer = site.ask(served, path="/export/7?format=pdf")
    assert (answer.status_code, answer.json()["blocked_by"]) == (403, "csv-only")
    assert ran == [1]
    assert [event.status for event in audit_events(type="call.ended")] == ["completed"]
    assert sync.__name__ == "sync"


def test_an_endpoint_of_starlettes_is_settled_with_its_response_and_takes_declared_arguments(
    site, tappass_plane, audit_events
):
    async def declared(request):
        return await request.json()

    @governed_endpoint("stream", arguments=declared)
    async def stream(request):
        async def body():
            yield str(len(audit_events(type="call.ended"))).encode()

        return StreamingResponse(body())

    @governed_endpoint("failing", arguments=lambda request: {"a": 1})
    def failing(request):
        raise KeyError

    served = site.put(Starlette(routes=[Route("/", stream, methods=["POST"]), Route("/failing", failing)]))
    assert site.ask(served, "POST", json={"to": "ann"}).text == "0"
    site.ask(served, path="/failing", raises=KeyError)
    assert [event.status for event in audit_events(type="call.ended")] == ["completed", "failed"]


def test_an_endpoint_of_starlettes_without_the_middleware_is_settled_when_it_returns(
    added, tappass_plane, audit_events
):
    @governed_endpoint("plain")
    def plain(request):
        return JSONResponse({})

    @governed_endpoint("broken")
    def broken(request):
        raise KeyError

    @governed_endpoint("blind")
    def blind():
        raise AssertionError("ran")

    app = Starlette(routes=[Route("/", plain), Route("/broken", broken)])
    assert added.ask(app).status_code == 200
    added.ask(app, path="/broken", raises=KeyError)
    assert [event.status for event in audit_events(type="call.ended")] == ["completed", "failed"]
    with pytest.raises(TapPassConfigError, match="takes no request"):
        anyio.run(blind)


def test_a_websocket_is_decided_before_it_is_accepted(site, app, tappass_plane, ran):
    import websockets.sync.client as websockets
    from websockets.exceptions import InvalidStatus

    tappass_plane.policy(POLICY)

    @app.websocket("/export")
    async def export(websocket: WebSocket, told: Annotated[dict, Depends(governed_action("export"))]):
        ran.append(told)
        await websocket.accept()
        await websocket.close()

    with live(site.put(app)) as url:
        at = url.replace("http", "ws") + "/export?format="
        with pytest.raises(InvalidStatus) as caught, websockets.connect(at + "pdf"):
            pass
        assert caught.value.response.status_code == 403
        with websockets.connect(at + "csv") as connection:
            assert list(connection) == []
    assert ran == [{"format": "csv"}]
