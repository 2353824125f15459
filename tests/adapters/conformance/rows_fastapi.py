"""FastAPI: the middleware inside the application and around it, an endpoint that is sync or async or streams."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from tappass import TapPassConnectionError, TapPassMiddleware
from tests.adapters.conformance.looping import decision_of, work
from tests.adapters.conformance.row import Job, Row


class Endpoint(Row):
    name = "fastapi-sync"
    told = False
    kind = "request"

    def app(self, job: Job) -> Any:
        app = FastAPI()
        app.add_api_route("/", lambda: work(job))
        app.add_middleware(TapPassMiddleware)
        return app

    def run(self, job: Job, **headers: str) -> str:
        async def main() -> httpx.Response:
            transport = httpx.ASGITransport(self.app(job))
            async with httpx.AsyncClient(transport=transport, base_url="http://app", headers=headers) as client:
                return await client.get("/")

        answer = anyio.run(main)
        if answer.status_code == 200:
            return answer.text
        if answer.status_code == 503:
            raise TapPassConnectionError(answer.json()["detail"])
        raise decision_of(answer.json())

    def resume(self, job: Job, token: str) -> str:
        return self.run(job, **{"x-tappass-resume": token})


class Async(Endpoint):
    name = "fastapi-async"

    def app(self, job: Job) -> Any:
        app = FastAPI()

        @app.get("/")
        async def endpoint() -> str:
            return work(job)

        app.add_middleware(TapPassMiddleware)
        return app


class Around(Async):
    name = "fastapi-around"

    def app(self, job: Job) -> Any:
        app = FastAPI()
        app.add_api_route("/", lambda: work(job))
        return TapPassMiddleware(app)


class Streamed(Endpoint):
    """What is streamed is made before it starts, so that a refusal still has a status."""

    name = "fastapi-stream"

    def app(self, job: Job) -> Any:
        app = FastAPI()

        @app.get("/")
        async def endpoint() -> StreamingResponse:
            said = work(job)
            return StreamingResponse(iter([said[:3], said[3:]]))

        app.add_middleware(TapPassMiddleware)
        return app


ROWS = [Endpoint(), Async(), Around(), Streamed()]
