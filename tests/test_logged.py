"""The watch over all that is logged finds what it looks for."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tappass.engine.credentials import ADMIN, new_key
from tests.logged import logged

_log = logging.getLogger("tests.logged")


@pytest.fixture(autouse=True)
def _unwatched() -> Iterator[None]:
    """The watch over this whole run would find these lines too."""
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(logging.LogRecord)
    yield
    logging.setLogRecordFactory(factory)


def test_a_key_in_any_line_is_found_and_not_shown() -> None:
    with logged() as watch:
        key = new_key(ADMIN)
        _log.warning("harmless")
        _log.warning("a part of it: %s", key.removeprefix("tp_admin_"))
        try:
            raise ValueError(key)
        except ValueError:
            _log.exception("failed")
        _log.warning("%s of another process", "tp_resume_apr_0123.0123456789abcdef0123")
    assert watch.leaks() == [
        "tests.logged: a part of it: <secret>",
        "tests.logged: ValueError: <secret>",
        "tests.logged: <secret> of another process",
    ]
    assert key not in str(watch.leaks())
