"""A url in tappass.toml is followed at the first use of a directory, and once it was accepted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tappass import PolicyBlockError, tool
from tappass.plane.connect import connect, database_of, url_here
from tappass.session.registry import registry
from tappass.toolspec import release_names

RULES = "version: 1\nrules:\n  - {id: never, tool: never_followed, effect: block}\n"


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/elsewhere/x.db"


def governed_call() -> None:
    @tool(name="never_followed")
    def never() -> None:
        raise AssertionError("ran")

    try:
        never()
    finally:
        registry.shutdown()
        release_names()


def write_url(url: str) -> None:
    Path("tappass.toml").write_text(f'url = "{url}"\n')


def test_a_url_that_a_tool_wrote_into_the_settings_does_not_lead_away_from_the_rules(elsewhere, tmp_path, capfd):
    Path("policy.yaml").write_text(RULES)
    with pytest.raises(PolicyBlockError):
        governed_call()
    write_url(elsewhere)
    with pytest.raises(PolicyBlockError):
        governed_call()
    assert not (tmp_path / "elsewhere").exists()
    assert capfd.readouterr().err.count("run `tappass policy accept`") >= 1


def test_the_url_that_waits_is_told_once(elsewhere, capfd):
    connect()
    assert connect().pipelines.current()
    write_url(elsewhere)
    capfd.readouterr()
    for _ in range(3):
        assert database_of(url_here()) == Path(".tappass/tappass.db").absolute()
    assert capfd.readouterr().err.count("the `url` in tappass.toml is not the one that was accepted") == 1


def test_settings_that_cannot_be_read_do_not_lead_away_either():
    assert connect().pipelines.current()
    Path("tappass.toml").write_text("url = \n")
    assert database_of(url_here()) == Path(".tappass/tappass.db").absolute()


def test_where_there_is_no_database_yet_the_url_is_followed(elsewhere, tmp_path):
    write_url(elsewhere)
    assert connect().sync.url == elsewhere
    assert (tmp_path / "elsewhere" / "x.db").exists()
    assert not Path(".tappass").exists()


def test_an_accepted_url_is_followed_and_removing_it_from_the_file_changes_nothing(elsewhere):
    assert connect().pipelines.current()
    write_url(elsewhere)
    connect().pipelines.accept("os:tester")
    assert url_here() == elsewhere
    Path("tappass.toml").unlink()
    assert url_here() == elsewhere


def test_asking_where_calls_go_stays_cheap_beside_a_database():
    Path("tappass.toml").write_text('[audit]\ncontent = "none"\n')
    assert connect().pipelines.current()
    url_here()
    began = time.perf_counter()
    for _ in range(1000):
        url_here()
    assert (time.perf_counter() - began) / 1000 < 0.0005
