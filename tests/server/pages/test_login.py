"""Logging in: by key, kept nowhere, ended by whatever ends the key; every page closed to who has not."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest

from tappass import tappass_session
from tappass.engine.store.connection import MEMORY
from tappass.engine.store.sqlite import SqliteStore
from tappass.engine.visits import IDLE, LONGEST, Visits
from tests.browser import Person
from tests.people import HandClock
from tests.server.pages.conftest import Place, csrf_in, person_named

Somebody = Callable[..., Person]
pytestmark = pytest.mark.xdist_group("pages")


def test_an_audit_url_leads_through_the_login_to_the_session(place: Place, somebody: Somebody) -> None:
    with tappass_session(name="nightly invoices", url=place.database) as session:
        pass
    assert session.audit_url == f"{place.url}/sessions/{session.session_id}"
    ada = somebody()
    ada.log_in(session.audit_url, place.approver("ada"))
    assert ada.page.url == session.audit_url
    assert ada.page.get_by_role("heading", name="nightly invoices").is_visible()


def test_the_key_is_in_no_address_no_cookie_and_no_page(place: Place, somebody: Somebody) -> None:
    ada, key, asked = somebody(), place.approver("ada"), []
    ada.page.on("request", lambda request: asked.append((request.url, request.headers)))
    ada.log_in(f"{place.url}/", key)
    assert ada.page.url == f"{place.url}/approvals"
    assert asked
    assert key not in repr(asked)
    assert key not in ada.page.content()
    (cookie,) = ada.context.cookies()
    assert key not in cookie["value"]
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert cookie["expires"] == -1


def test_a_wrong_key_and_an_agents_key_are_told_apart_and_let_nobody_in(place: Place, somebody: Somebody) -> None:
    eve = somebody()
    eve.log_in(place.url, "tp_approver_guessed")
    assert "That key is not valid" in eve.page.get_by_role("alert").inner_text()
    place.agents.add(person_named("setup"), "worker")
    eve.log_in(place.url, place.key("agent", "worker"))
    assert "an agent's key" in eve.page.get_by_role("alert").inner_text()
    assert eve.context.cookies() == []


@pytest.mark.parametrize("scope", ["admin", "auditor"])
def test_admins_and_auditors_come_in(place: Place, somebody: Somebody, scope: str) -> None:
    who = somebody()
    who.log_in(place.url, place.key(scope, f"the {scope}"))
    assert who.page.url == f"{place.url}/approvals"
    assert scope in who.page.locator("header").inner_text()


def test_who_logs_out_is_out_even_with_the_old_cookie(place: Place, somebody: Somebody) -> None:
    ada = somebody()
    ada.log_in(place.url, place.approver("ada"))
    (cookie,) = ada.context.cookies()
    ada.page.get_by_role("button", name="Log out").click()
    ada.page.wait_for_url("**/login")
    assert ada.context.cookies() == []
    again = httpx.get(f"{place.url}/approvals", cookies={cookie["name"]: cookie["value"]}, trust_env=False)
    assert (again.status_code, again.headers["location"]) == (303, "/login")


def test_a_revoked_key_ends_its_visit_within_a_second(place: Place, somebody: Somebody) -> None:
    leaving = somebody()
    leaving.log_in(place.url, place.approver("leaving"))
    assert leaving.page.url.endswith("/approvals")
    place.approver("staying")
    place.revoke("leaving")
    revoked = time.monotonic()
    while leaving.page.goto(f"{place.url}/approvals") and not leaving.page.url.endswith("/login"):
        assert time.monotonic() - revoked < 1


def test_a_link_followed_from_another_site_needs_no_second_login(place: Place, somebody: Somebody) -> None:
    ada = somebody()
    ada.log_in(place.url, place.approver("ada"))
    with tappass_session(name="from the chat", url=place.database) as session:
        pass
    chat = f'<a href="{session.audit_url}">look</a>'
    ada.page.route("http://chat.example/", lambda route: route.fulfill(body=chat, content_type="text/html"))
    ada.page.goto("http://chat.example/")
    ada.page.get_by_role("link", name="look").click()
    ada.page.get_by_role("heading", name="from the chat").wait_for()


@pytest.mark.parametrize(
    "asked",
    [
        "https://evil.example/", "//evil.example/", "/\\evil.example", "/login", "/approvals//evil.example", "",
        "javascript:x", "/sessions/../../x", "/approvals\r\nSet-Cookie: a=b", "/approvals@evil.example",
        "/sessions/\u202e",
    ],
)  # fmt: skip
def test_after_the_login_nobody_is_led_elsewhere(place: Place, asked: str) -> None:
    form = {"key": place.approver("ada"), "next": asked}
    answer = httpx.post(f"{place.url}/login", data=form, headers={"Origin": place.url}, trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/approvals")


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/approvals"), ("GET", "/approvals/apr_1"), ("GET", "/sessions/ses_1"), ("POST", "/approvals/apr_1/vote"),
    ("POST", "/logout"), ("GET", "/"),
])  # fmt: skip
@pytest.mark.parametrize("cookie", ["", "made.up", "org_local.", ".", "org_local.' OR 1=1", "x" * 3000])
def test_without_a_login_every_page_leads_to_it(place: Place, method: str, path: str, cookie: str) -> None:
    headers = {"Accept": "text/html", "Origin": place.url, "Cookie": f"tappass_visit={cookie}"}
    answer = httpx.request(
        method, place.url + path, headers=headers, trust_env=False, data={"csrf": "x"} if method == "POST" else None
    )
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login" if path != "/" else "/approvals")


def test_a_login_sent_from_another_site_is_refused(place: Place) -> None:
    form = {"key": place.approver("ada")}
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {},
        {"Origin": place.url, "Sec-Fetch-Site": "cross-site"},
    ):
        answer = httpx.post(f"{place.url}/login", data=form, headers=headers, trust_env=False)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


def test_behind_https_the_cookie_never_travels_in_the_clear(place: Place) -> None:
    host = place.url.removeprefix("http://")
    answer = httpx.post(
        f"{place.url}/login",
        data={"key": place.approver("ada")},
        headers={"Origin": f"https://{host}"},
        trust_env=False,
    )
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-tappass_visit=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))


def test_every_page_forbids_scripts_frames_and_keeping(place: Place) -> None:
    with place.client(place.approver("ada")) as client:
        for path in ("/login", "/approvals", "/approvals/none", "/sessions/none", "/static/none"):
            headers = client.get(path, headers={"Accept": "text/html"}).headers
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; style-src 'self'")
            assert "script-src" not in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


def test_wrong_keys_are_slowed_down_and_a_good_one_still_passes(place: Place) -> None:
    headers, key = {"Origin": place.url}, place.approver("ada")
    statuses = [
        httpx.post(f"{place.url}/login", data={"key": f"tp_admin_{n}"}, headers=headers, trust_env=False).status_code
        for n in range(25)
    ]
    assert statuses[-1] == 429
    assert set(statuses) == {401, 429}
    good = httpx.post(f"{place.url}/login", data={"key": key}, headers=headers, trust_env=False)
    assert good.status_code == 303


def test_a_form_that_is_none_or_too_long_is_refused(place: Place) -> None:
    headers = {"Origin": place.url}
    assert httpx.post(f"{place.url}/login", json={"key": "x"}, headers=headers, trust_env=False).status_code == 415
    long = httpx.post(f"{place.url}/login", data={"key": "x" * 20_000}, headers=headers, trust_env=False)
    assert long.status_code == 413
    many = httpx.post(f"{place.url}/login", data={f"f{n}": "" for n in range(50)}, headers=headers, trust_env=False)
    assert many.status_code == 400


def test_a_form_of_another_login_is_refused(place: Place) -> None:
    with place.client(place.approver("ada")) as ada, place.client(place.approver("bob")) as bob:
        foreign = csrf_in(bob.get("/approvals").text)
        assert ada.post("/logout", data={"csrf": foreign}).status_code == 403
        assert ada.post("/logout").status_code in (403, 415)
        assert ada.get("/approvals").status_code == 200


def test_a_visit_ends_when_nobody_comes_and_after_half_a_day_at_the_latest() -> None:
    clock = HandClock()
    store = SqliteStore(MEMORY, clock=clock)
    visits = Visits(store, "org_local", clock)
    idle = visits.begin(b"digest")
    clock.pass_s(int(IDLE / timedelta(seconds=1)) - 1)
    assert visits.find(idle) == b"digest"
    clock.pass_s(int(IDLE / timedelta(seconds=1)) - 1)
    assert visits.find(idle) == b"digest"
    clock.pass_s(int(IDLE / timedelta(seconds=1)) + 1)
    assert visits.find(idle) is None
    busy, left = visits.begin(b"digest"), int(LONGEST / timedelta(minutes=10))
    for _ in range(left - 1):
        clock.pass_s(600)
        assert visits.find(busy) == b"digest"
    clock.pass_s(601)
    assert visits.find(busy) is None
    assert Visits(store, "org_other", clock).find(visits.begin(b"digest")) is None
    assert len(store.read.query("SELECT 1 FROM visit")) == 1, "what is over is swept"
    store.close()
