"""FastAPI: a session for each request, decisions for routes, and refusals as typed responses.

You get a middleware and a dependency: a refused route does not run and answers 403 with problem details, a tool called
anywhere beneath a request belongs to its session, every response says which. Needs `tappass[fastapi]`.
"""

import warnings

from fastapi import Depends, FastAPI

from tappass import TapPassMiddleware, governed_action, tool
from tappass.testing import memory_plane

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what the test client will need one day
    from fastapi.testclient import TestClient

POLICY = """
version: 1
rules:
  - {id: small-exports, tool: export, when: args.rows > 1000, effect: block, message: Ask the data team}
  - {id: mask-names, tool: read_rows, effect: redact, fields: [result], kinds: [EMAIL]}
"""


@tool
def read_rows(rows: int) -> list[str]:
    """Read rows of a table."""
    return ["ann@example.com"] * rows


app = FastAPI()
app.add_middleware(TapPassMiddleware)


@app.get("/export", dependencies=[Depends(governed_action("export"))])
def export(rows: int) -> list[str]:
    """Export rows: decided by its parameters before it runs."""
    return read_rows(rows)


def main() -> None:
    with memory_plane(POLICY) as plane, TestClient(app) as client:
        few, many = client.get("/export?rows=2"), client.get("/export?rows=5000")
        decided = [(event.name, event.outcome) for event in plane.events(type="call.decided")]
    print(few.status_code, few.json())
    print(many.status_code, many.json()["reason"])
    assert few.json() == ["[EMAIL]", "[EMAIL]"]
    assert many.status_code == 403
    assert many.headers["x-tappass-session"] != few.headers["x-tappass-session"]
    assert decided == [("export", "allow"), ("read_rows", "allow"), ("export", "block")]


if __name__ == "__main__":
    main()
