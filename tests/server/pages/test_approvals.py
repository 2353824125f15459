"""The inbox: exactly what will run, votes by people who may vote, and nothing a stranger wrote does anything."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tappass import ApprovalRequired, PolicyBlockError, tappass_session, tool
from tappass.engine.keys import Keys
from tappass.engine.leaves import Leaves
from tappass.engine.organisations import Organisations
from tappass.wire.ids import SYSTEM_CLOCK
from tests.browser import Person
from tests.server.pages.conftest import Place, csrf_in, person_named

Somebody = Callable[..., Person]
pytestmark = pytest.mark.xdist_group("pages")
HOSTILE = (
    '"><img src=x onerror="document.title=\'hacked\';alert(1)"><script>alert(2)</script></textarea></title>'
    "<svg/onload=alert(3)>{{7*7}}\u202egnp.exe\u200b\x1b[31m\x00&lt;b&gt;<a href='javascript:alert(4)'>"
)


class Waiting:
    """A payment that an agent waits for, on a thread of its own."""

    def __init__(self, place: Place, function: Callable[..., Any], *arguments: Any, **session: Any) -> None:
        self.session_id, self.answer, self.error = "", None, None
        self._opened = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(session or {"url": place.database, "agent": "bookkeeper"}, function, arguments)
        )
        self._thread.start()
        assert self._opened.wait(15)
        self.approval_id = place.waiting(self.session_id)

    def _run(self, where: dict[str, Any], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        with tappass_session(name="paying", **where) as session:
            self.session_id = session.session_id
            self._opened.set()
            try:
                self.answer = function(*arguments)
            except PolicyBlockError as error:
                self.error = error

    def end(self) -> Waiting:
        self._thread.join(15)
        assert not self._thread.is_alive()
        return self


def paying(paid: list[tuple[str, float]], name: str = "pay") -> Callable[..., Any]:
    def pay(to: str, amount: float) -> str:
        paid.append((to, amount))
        return f"paid {amount}"

    return tool(name=name, on_approval="wait", approval_timeout_s=30)(pay)


def vote(person: Person, place: Place, approval_id: str, button: str, reason: str) -> None:
    person.page.goto(f"{place.url}/approvals")
    asked = person.page.locator(f"[id='{approval_id}']")
    asked.get_by_label("Reason").fill(reason)
    asked.get_by_role("button", name=button).click()
    person.page.wait_for_url(f"**/approvals/{approval_id}*")


@pytest.mark.parametrize("javascript", [True, False], ids=["with scripts", "without scripts"])
def test_a_waiting_payment_is_approved_in_the_browser_and_runs(
    place: Place, somebody: Somebody, javascript: bool
) -> None:
    paid: list[tuple[str, float]] = []
    waiting = Waiting(place, paying(paid), "Brightline GmbH", 12_500.0)
    assert not paid
    ada = somebody(java_script_enabled=javascript)
    ada.log_in(place.url, place.approver("ada"))
    asked = ada.page.locator(f"[id='{waiting.approval_id}']").inner_text()
    for exactly in ("pay", '"Brightline GmbH"', "12500.0", "large-payments", "policy.yaml:4", "bookkeeper", "0 of 1",
                    "Compare the amount with the invoice first"):  # fmt: skip
        assert exactly in asked
    vote(ada, place, waiting.approval_id, "Approve", "matches\ninvoice 20331")
    assert waiting.end().answer == "paid 12500.0"
    assert paid == [("Brightline GmbH", 12_500.0)]
    ada.page.goto(f"{place.url}/sessions/{waiting.session_id}")
    told = ada.text()
    assert "matches\ninvoice 20331" in told
    assert "let it run" in told
    assert place.state(waiting.approval_id) == "redeemed"


def test_a_payment_that_waits_at_the_server_is_approved_in_the_browser_and_runs(
    place: Place, somebody: Somebody
) -> None:
    paid: list[tuple[str, float]] = []
    place.agents.add(person_named("setup"), "remote-clerk")
    key = place.key("agent", "remote-clerk")
    waiting = Waiting(place, paying(paid), "Helios", 4_200.0, url=place.url, api_key=key)
    ada = somebody()
    ada.log_in(place.url, place.approver("ada"))
    vote(ada, place, waiting.approval_id, "Approve", "as agreed")
    assert waiting.end().answer == "paid 4200.0"
    assert paid == [("Helios", 4_200.0)]
    ada.page.goto(f"{place.url}/sessions/{waiting.session_id}")
    assert "remote-clerk" in ada.text()


def test_a_denied_payment_never_runs_and_the_reason_is_on_record(place: Place, somebody: Somebody) -> None:
    paid: list[tuple[str, float]] = []
    waiting = Waiting(place, paying(paid), "Corvus", 99_000.0)
    ada = somebody()
    ada.log_in(place.url, place.approver("ada"))
    vote(ada, place, waiting.approval_id, "Deny", "no such invoice")
    assert isinstance(waiting.end().error, PolicyBlockError)
    assert not paid
    assert "no such invoice" in ada.text()
    ada.page.goto(f"{place.url}/approvals")
    decided = ada.page.get_by_role("row").filter(has=ada.page.locator(f"a[href$='{waiting.approval_id}']"))
    assert decided.inner_text().split()[:2] == ["denied", "pay"]


def test_two_must_agree_and_nobody_counts_twice(place: Place, somebody: Somebody) -> None:
    @tool
    def launch(what: str) -> None: ...

    approval_id = place.hold(launch, "rocket")
    ada, bob = somebody(), somebody()
    ada.log_in(place.url, place.approver("ada"))
    vote(ada, place, approval_id, "Approve", "checked")
    assert "You have voted; each person counts once." in ada.text()
    assert ada.page.get_by_role("button", name="Approve").count() == 0
    with place.client(place.approver("ada")) as again:
        form = {"csrf": csrf_in(again.get("/approvals").text), "vote": "approve", "reason": "once more"}
        assert again.post(f"/approvals/{approval_id}/vote", data=form).status_code == 409
    assert place.state(approval_id) == "pending"
    bob.log_in(place.url, place.approver("bob"))
    vote(bob, place, approval_id, "Approve", "checked as well")
    assert place.state(approval_id) == "approved"


def test_nobody_approves_their_own_request_and_the_page_says_why(place: Place, somebody: Somebody) -> None:
    @tool
    def pay(amount: int) -> None: ...

    place.agents.add(person_named("carol"), "carols-agent")
    approval_id = place.hold(pay, 5000, agent="carols-agent")
    carol = somebody()
    carol.log_in(f"{place.url}/approvals/{approval_id}", place.approver("carol"))
    assert "nobody approves their own request" in carol.text()
    assert carol.page.get_by_role("button", name="Approve").count() == 0
    with place.client(place.approver("carol")) as client:
        form = {"csrf": csrf_in(client.get("/approvals").text), "vote": "approve", "reason": "it is mine"}
        answer = client.post(f"/approvals/{approval_id}/vote", data=form)
    assert answer.status_code == 409
    assert "nobody approves their own request" in answer.text
    assert place.state(approval_id) == "pending"


@pytest.mark.parametrize("scope", ["admin", "auditor"])
def test_admins_and_auditors_read_and_do_not_vote(place: Place, somebody: Somebody, scope: str) -> None:
    @tool
    def pay(amount: int) -> None: ...

    approval_id = place.hold(pay, 7000)
    reader, key = somebody(), place.key(scope, f"reading {scope}")
    reader.log_in(f"{place.url}/approvals/{approval_id}", key)
    assert "7000" in reader.text()
    assert "Voting takes an approver's key." in reader.text()
    assert reader.page.get_by_role("button", name="Approve").count() == 0
    with place.client(key) as client:
        form = {"csrf": csrf_in(client.get("/approvals").text), "vote": "approve", "reason": "please"}
        assert client.post(f"/approvals/{approval_id}/vote", data=form).status_code == 409
    assert place.state(approval_id) == "pending"


def test_a_form_without_its_token_or_from_elsewhere_changes_nothing(place: Place) -> None:
    @tool
    def pay(amount: int) -> None: ...

    approval_id = place.hold(pay, 8000)
    with place.client(place.approver("ada")) as ada, place.client(place.approver("bob")) as bob:
        path, fields = f"/approvals/{approval_id}/vote", {"vote": "approve", "reason": "forged"}
        mine, foreign = (csrf_in(each.get("/approvals").text) for each in (ada, bob))
        assert ada.post(path, data=fields).status_code == 403
        assert ada.post(path, data=fields | {"csrf": foreign}).status_code == 403
        assert ada.post(path, data=fields | {"csrf": mine[:-1]}).status_code == 403
        whole = fields | {"csrf": mine}
        for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": ""},
                        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):  # fmt: skip
            assert ada.post(path, data=whole, headers=headers).status_code == 403
        assert ada.post(path, json=whole).status_code == 415
        assert ada.get(path, params=whole).status_code in (404, 405)
        assert ada.post(path, data=whole | {"reason": "  "}).status_code == 409
        assert ada.post(path, data=whole | {"vote": "maybe"}).status_code == 409
        assert place.state(approval_id) == "pending"
        assert ada.post(path, data=whole).status_code == 303
    assert place.state(approval_id) == "approved"


def test_a_page_of_another_site_cannot_vote_for_a_visitor(place: Place, somebody: Somebody) -> None:
    @tool
    def pay(amount: int) -> None: ...

    approval_id = place.hold(pay, 9000)
    ada = somebody()
    ada.log_in(place.url, place.approver("ada"))
    csrf = csrf_in(ada.page.content())
    trap = (
        f'<form method="post" action="{place.url}/approvals/{approval_id}/vote"><input name="vote" value="approve">'
        f'<input name="reason" value="x"><input name="csrf" value="{csrf}"><button>Win</button></form>'
    )
    ada.page.route("http://evil.example/", lambda route: route.fulfill(body=trap, content_type="text/html"))
    ada.page.goto("http://evil.example/")
    ada.page.get_by_role("button", name="Win").click()
    ada.page.wait_for_url(f"{place.url}/**")
    assert place.state(approval_id) == "pending"
    ada.page.goto(f"{place.url}/approvals")
    assert ada.page.url == f"{place.url}/approvals", "still logged in"


def test_what_strangers_wrote_is_shown_and_not_executed(place: Place, somebody: Somebody) -> None:
    def pay(amount: int, text: Any, **given: Any) -> None: ...

    named = tool(name=f"pay {HOSTILE}")(pay)
    opened = tappass_session(url=place.database, name=HOSTILE, agent="<script>alert(5)</script>")
    with opened as session, pytest.raises(ApprovalRequired):
        named(5000, [HOSTILE, {HOSTILE: 1}], **{HOSTILE: HOSTILE})
    approval_id = place.waiting(session.session_id)
    ada = somebody()
    ada.log_in(place.url, place.approver("ada"))
    for path in (f"/approvals/{approval_id}", "/approvals"):
        ada.page.goto(place.url + path)
        inert(ada)
        assert "<script>alert(2)</script>" in ada.text()
    vote(ada, place, approval_id, "Deny", HOSTILE.replace("\x00", ""))
    inert(ada)
    ada.page.goto(session.audit_url)
    inert(ada)
    told = ada.text()
    assert "<svg/onload=alert(3)>" in told
    assert "{{7*7}}" in told
    assert r"\u202e" in told
    assert r"\x1b" in told
    assert "\u202e" not in told
    assert "\u200b" not in told


def inert(person: Person) -> None:
    """Nothing of a stranger's became part of the page: no element, no title, no link."""
    page = person.page
    assert page.locator("script, main img, svg, iframe, main a[href^=javascript]").count() == 0
    assert page.title() != "hacked"
    assert page.evaluate(
        "[...document.querySelectorAll('*')].every(e => ![...e.attributes].some(a => a.name.startsWith('on')))"
    )
    assert page.locator("main").count() == 1
    assert person.alarms == []


def test_long_arguments_are_read_whole_before_anybody_votes(place: Place, somebody: Somebody) -> None:
    @tool
    def pay(amount: int, memo: str) -> None: ...

    approval_id = place.hold(pay, 5000, "all of it " * 2000 + "the last words")
    ada = somebody()
    ada.log_in(place.url, place.approver("ada"))
    asked = ada.page.locator(f"[id='{approval_id}']")
    assert asked.get_by_role("button").count() == 0
    asked.get_by_role("link", name="Read all of it").click()
    assert "the last words" in ada.text()
    assert ada.page.get_by_role("button", name="Approve").is_visible()


def test_another_organisation_sees_and_decides_nothing_here(place: Place) -> None:
    @tool
    def pay(amount: int) -> None: ...

    approval_id = place.hold(pay, 6000)
    row = place.store.read.row("SELECT session_id FROM approval WHERE approval_id = ?", (approval_id,))
    assert row is not None
    other = Organisations(place.store).add("another")
    key = (
        Keys(place.store, Leaves(SYSTEM_CLOCK, other.org_id, other.project_id)).create("x", "approver", name="ada").key
    )
    with place.client(key) as foreign:
        inbox = foreign.get("/approvals").text
        assert approval_id not in inbox
        assert foreign.get(f"/approvals/{approval_id}").status_code == 404
        assert foreign.get(f"/sessions/{row[0]}", headers={"Accept": "text/html"}).status_code == 404
        form = {"csrf": csrf_in(inbox), "vote": "approve", "reason": "not mine"}
        assert foreign.post(f"/approvals/{approval_id}/vote", data=form).status_code in (404, 409)
    assert place.state(approval_id) == "pending"


def test_the_inbox_looks_again_by_itself_when_asked_to(place: Place, somebody: Somebody) -> None:
    @tool
    def pay(amount: int) -> None: ...

    approval_id = place.hold(pay, 4000)
    with place.client(place.approver("ada")) as client:
        page = client.get("/approvals?refresh=1").text
    assert '<meta http-equiv="refresh" content="10">' in page
    assert "<textarea" not in page, "nobody's reason is lost to a refresh"
    assert f'href="/approvals/{approval_id}">Decide' in page


def test_many_that_wait_come_in_pages(place: Place) -> None:
    @tool
    def pay(amount: int) -> None: ...

    asked = {place.hold(pay, 3000 + n) for n in range(45)}
    seen: list[str] = []
    with place.client(place.approver("ada")) as client:
        path = "/approvals"
        while path:
            html = client.get(path).text
            seen += [part.split('"')[0] for part in html.split('<article class="card ask" id="')[1:]]
            path = html.split('<p class="pager"><a href="')[1].split('"')[0] if "Further" in html else ""
    assert asked <= set(seen)
    assert len(seen) == len(set(seen))


@pytest.fixture(autouse=True)
def _nothing_waits_at_the_end(place: Place) -> Any:
    yield
    place.store.run(lambda tx: tx.execute("UPDATE approval SET state = 'cancelled' WHERE state = 'pending'"))
