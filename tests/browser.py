"""A real Chromium for tests: Debian's, through playwright. Nothing is skipped where it is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

WAIT_MS = 15_000
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str:
    """Return where Chromium is: `TAPPASS_TEST_CHROMIUM`, else on PATH."""
    named = os.environ.get("TAPPASS_TEST_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        raise RuntimeError(
            f"no Chromium on PATH ({', '.join(NAMES)}): the tests of the pages run in a real one. Install it "
            "(Debian, Ubuntu: apt-get install chromium), or name it in TAPPASS_TEST_CHROMIUM"
        )
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser. While it runs, this thread has an event loop: no test beside it may start another."""
    # A sandbox is not to be had as root; what is shown is our own server's.
    options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=executable(), args=options, timeout=60_000)
        try:
            yield browser
        finally:
            browser.close()


class Person:
    """Somebody at a browser of their own; what scripts or dialogs a page started is kept in `alarms`."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.alarms: list[str] = []
        context.set_default_timeout(WAIT_MS)
        context.on("page", self._watch)
        self.page: Page = context.new_page()

    def _watch(self, page: Page) -> None:
        def dismiss(dialog: object) -> None:
            self.alarms.append(f"dialog: {dialog.message}")  # type: ignore[attr-defined]
            dialog.dismiss()  # type: ignore[attr-defined]

        page.on("dialog", dismiss)
        page.on("pageerror", lambda error: self.alarms.append(f"script: {error}"))
        page.on("console", lambda said: self.alarms.append(f"console: {said.text}") if said.type == "error" else None)

    def log_in(self, url: str, key: str) -> None:
        """Follow an address as somebody without a login does, and log in."""
        self.page.goto(url)
        self.page.get_by_label("Key").fill(key)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_load_state()

    def text(self) -> str:
        """Return what the page says."""
        return self.page.locator("main").inner_text()


@contextmanager
def person(browser: Browser, **options: object) -> Iterator[Person]:
    """Yield somebody with no cookies."""
    context = browser.new_context(**options)  # type: ignore[arg-type]
    try:
        yield Person(context)
    finally:
        context.close()
