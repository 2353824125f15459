"""The same pages over PostgreSQL, where rows are seen through row-level security."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tappass import tappass_session, tool
from tests.browser import person
from tests.postgres import fresh_database
from tests.server.pages.conftest import Place, csrf_in, eventually, placed
from tests.server.pages.test_approvals import Waiting, paying, vote

pytestmark = pytest.mark.xdist_group("pages")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with fresh_database() as database, placed(tmp_path_factory.mktemp("served"), database) as made:
        yield made


@pytest.fixture(autouse=True)
def _beside_the_server(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent's plane on PostgreSQL takes policy and keys from where it runs."""
    monkeypatch.chdir(place.served.directory)


def test_a_payment_is_approved_and_runs(place: Place, browser: Browser) -> None:
    paid: list[tuple[str, float]] = []
    waiting = Waiting(place, paying(paid), "Brightline GmbH", 12_500.0)
    with person(browser) as ada:
        ada.log_in(place.url, place.approver("ada"))
        vote(ada, place, waiting.approval_id, "Approve", "matches the invoice")
        assert waiting.end().answer == "paid 12500.0"
        assert len(paid) == 1
        ada.page.goto(f"{place.url}/sessions/{waiting.session_id}")
        told = ada.text()
        assert "matches the invoice" in told
        assert "large-payments policy.yaml:4" in told
        assert "2 calls, 1 held" in told
        assert ada.alarms == []


def test_a_revoked_key_and_a_logout_end_visits(place: Place) -> None:
    place.approver("staying")
    with place.client(place.approver("leaving")) as client:
        assert client.get("/approvals").status_code == 200
        place.revoke("leaving")
        eventually(lambda: client.get("/approvals").status_code == 303, within_s=1)
    with place.client(place.approver("staying")) as client:
        cookie = dict(client.cookies)
        client.post("/logout", data={"csrf": csrf_in(client.get("/approvals").text)})
        client.cookies.update(cookie)
        assert client.get("/approvals").status_code == 303


def test_what_no_text_of_the_database_can_hold_is_not_there(place: Place) -> None:
    @tool
    def pay(amount: int) -> None: ...

    with tappass_session(url=place.database, name="asking"):
        approval_id = place.hold(pay, 5000)
    with place.client(place.approver("ada")) as client:
        html = client.get("/approvals", params={"after": "\x00", "before": "\x00"})
        assert html.status_code == 200
        assert client.get("/approvals/%00").status_code == 404
        assert client.get("/sessions/ses%00", headers={"Accept": "text/html"}).status_code == 404
        form = {"csrf": csrf_in(html.text), "vote": "approve", "reason": "\x00"}
        assert client.post(f"/approvals/{approval_id}/vote", data=form).status_code == 409
    assert place.state(approval_id) == "pending"
