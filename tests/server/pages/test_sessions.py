"""The page that an audit_url leads to: what was decided and why, what ran, what nobody knows the end of."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest

from tappass import ApprovalRequired, PolicyBlockError, tappass_session, tool
from tappass.wire.decisions import Action, DecisionRequest
from tests.browser import Person
from tests.server.pages.conftest import Place

Somebody = Callable[..., Person]
pytestmark = pytest.mark.xdist_group("pages")
BROWSER = {"Accept": "text/html,application/xhtml+xml"}


def test_a_session_is_a_tree_of_calls_with_rules_masked_arguments_and_durations(
    place: Place, somebody: Somebody
) -> None:
    @tool
    def crm_lookup(customer: str) -> str:
        return "ada@x.example"

    @tool
    def send_email(to: str, body: str) -> str:
        raise AssertionError("never called")

    with tappass_session(url=place.database, name="nightly", agent="bookkeeper", metadata={"batch": 7}) as session:
        crm_lookup("C-1")
        with tappass_session(name="inner", agent="clerk") as inner, pytest.raises(PolicyBlockError):
            send_email("eve@evil.example", "hi")
    auditor = somebody()
    auditor.log_in(session.audit_url, place.key("auditor", "audrey"))
    told = auditor.text()
    for said in ("nightly", "completed", "bookkeeper", "standard", "enforce", "batch", "1 call", "crm_lookup", '"C-1"',
                 "mask-crm", "policy.yaml:19", "result masked: EMAIL", "send_email", "BLOCKED", "mail-stays-inside",
                 "policy.yaml:14", '"[EMAIL]"', "CONFIDENTIAL", "nothing ran", "clerk"):  # fmt: skip
        assert said in told, said
    assert "eve@evil.example" not in auditor.page.content()
    child = auditor.page.get_by_role("region", name="Session inner")
    assert "send_email" in child.inner_text()
    child.get_by_role("link", name="inner").click()
    auditor.page.wait_for_url(f"**/sessions/{inner.session_id}")
    auditor.page.get_by_role("link", name="nightly").click()
    auditor.page.wait_for_url(f"**/sessions/{session.session_id}")


def test_a_call_without_an_ending_says_that_its_outcome_is_unknown(place: Place, somebody: Somebody) -> None:
    with tappass_session(url=place.database, name="cut off") as session:
        action = Action(kind="tool", name="transfer", arguments={"amount": 1})
        asked = {"session_id": session.session_id, "task_id": "tsk_cut_off", "capabilities": ("scan_result",)}
        request = DecisionRequest(action=action, **asked)
        assert session.plane.sync.decide(request).outcome == "allow"
    ada = somebody()
    ada.log_in(session.audit_url, place.approver("ada"))
    assert "UNSETTLED" in ada.text()
    assert "Outcome unknown: it was allowed and has no ending." in ada.text()
    assert "1 unsettled" in ada.text()


def test_hostile_names_of_errors_and_values_stay_text(place: Place, somebody: Somebody) -> None:
    error = type("<script>alert(1)</script>", (Exception,), {})

    @tool
    def fail(note: str) -> None:
        raise error("<script>alert(2)</script>")

    with tappass_session(url=place.database, name="<b>bold</b>") as session, pytest.raises(error):
        fail("<i>" * 1000)
    ada = somebody()
    ada.log_in(session.audit_url, place.approver("ada"))
    assert "<script>alert(1)</script>" in ada.text()
    assert ada.page.locator("script, main h1 b, main dd i").count() == 0
    ada.page.locator("summary").click()
    assert "<i>" * 1000 in ada.page.locator("details").inner_text()


def test_thousands_of_calls_come_in_parts_each_once_and_soon(place: Place) -> None:
    @tool
    def tick(number: int) -> None: ...

    with tappass_session(url=place.database, name="long") as session:
        for number in range(2_000):
            tick(number)
            if number % 500 == 0:
                with tappass_session(name=f"child {number}"):
                    tick(number)
    seen: list[str] = []
    slowest = 0.0
    with place.client(place.key("auditor", "audrey")) as client:
        path = f"/sessions/{session.session_id}"
        while path:
            began = time.monotonic()
            html = client.get(path, headers=BROWSER).text
            slowest = max(slowest, time.monotonic() - began)
            assert len(html) < 500_000
            seen += [part.split('"')[0] for part in html.split('<li class="call" id="')[1:]]
            path = html.rpartition('<a href="')[2].split('"')[0] if "Further calls" in html else ""
    assert len(seen) == len(set(seen)) == 2_004
    assert slowest < 2, "bounded by a part, not by the session"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_fit_a_phone_and_every_field_has_its_label(place: Place, somebody: Somebody, scheme: str) -> None:
    @tool
    def pay(amount: int, memo: str) -> None: ...

    long = "W" * 300
    with tappass_session(url=place.database, name=long, agent=long[:100]) as session, pytest.raises(ApprovalRequired):
        pay(5000, long)
    phone = somebody(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    phone.page.goto(f"{place.url}/login")
    fits(phone)
    phone.log_in(session.audit_url, place.approver("ada"))
    fits(phone)
    for path in ("/approvals", f"/approvals/{place.waiting(session.session_id)}"):
        phone.page.goto(place.url + path)
        fits(phone)


def fits(person: Person) -> None:
    page = person.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("h1").count() == 1
    assert page.locator("html[lang=en]").count() == 1
    fields = "[...document.querySelectorAll('input:not([type=hidden]), textarea')]"
    assert page.evaluate(f"{fields}.every(e => e.labels.length)")
    faint = page.evaluate(CONTRAST)
    assert faint == [], "text is too faint to read (WCAG 2.2, 1.4.3)"


# Every element with text of its own: its colour against the nearest background that is painted.
CONTRAST = """() => {
  const channels = css => css.match(/[\\d.]+/g).map(Number);
  const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = css => { const [r, g, b] = channels(css).map(linear);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const painted = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (channels(c)[3] !== 0) return c; } return 'rgb(255, 255, 255)'; };
  const faint = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(painted(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) faint.push(`${e.tagName}.${e.className} ${ratio.toFixed(2)}`);
  }
  return faint;
}"""


def test_a_session_that_is_not_there_is_a_page_that_says_so(place: Place) -> None:
    with place.client(place.approver("ada")) as client:
        answer = client.get("/sessions/ses_<script>", headers=BROWSER)
    assert answer.status_code == 404
    assert "No such session" in answer.text
    assert "<script" not in answer.text


def test_a_program_that_shows_a_key_does_not_get_the_page(place: Place) -> None:
    headers = BROWSER | {"Authorization": f"Bearer {place.approver('ada')}"}
    answer = httpx.get(f"{place.url}/sessions/ses_1", headers=headers, trust_env=False)
    assert not answer.headers["content-type"].startswith("text/html")
