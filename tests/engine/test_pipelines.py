"""What may come into force."""

from __future__ import annotations

from pathlib import Path

import pytest

from tappass import TapPassConfigError, tappass_session, tool

RULE = "version: 1\nrules:\n  - {id: r, tool: pay_known, when: args.%s > 5, effect: block}\n"


def test_a_policy_that_misspells_an_argument_of_a_tool_that_ran_is_refused_and_the_old_one_rules(tappass_plane):
    pay = tool(name="pay_known")(lambda amount: amount)
    tappass_plane.policy(RULE % "amount")
    assert pay(1) == 1
    before = tappass_plane.plane.pipelines.current().uuid

    with pytest.raises(TapPassConfigError, match="`pay_known` has no argument `amuont`; did you mean `amount`"):
        tappass_plane.policy(RULE % "amuont")

    assert tappass_plane.plane.pipelines.current().uuid == before


def test_a_refused_policy_or_setting_leaves_the_good_ones_to_be_used_with_what_comes_next(tappass_plane):
    tappass_plane.policy("version: 1\ndefault: block\n")
    with pytest.raises(TapPassConfigError):
        tappass_plane.policy("version: 2\n")
    tappass_plane.settings('[audit]\ncontent = "none"\n')
    with pytest.raises(TapPassConfigError):
        tappass_plane.settings("nonsense = 1\n")
    tappass_plane.policy("version: 1\ndefault: allow\n")
    current = tappass_plane.plane.pipelines.current()
    assert current.settings.audit.content == "none"
    assert current.policy.document.default == "allow"


def test_without_a_policy_one_line_names_the_command_that_writes_one(capfd):
    for name in ("first", "second", "third"):
        with tappass_session(name=name):
            tool(name=f"unruled_{name}")(lambda: None)()
    told = capfd.readouterr().err
    assert told.count("tappass: there is no policy in") == 1
    assert "`tappass init`" in told


def test_no_such_line_where_there_is_a_policy_or_a_plane_in_memory(capfd, tappass_plane):
    with tappass_session():
        tool(name="unruled_fourth")(lambda: None)()
    Path("policy.yaml").write_text("version: 1\n")
    with tappass_session(url="embedded:"):
        tool(name="unruled_fifth")(lambda: None)()
    assert "no policy" not in capfd.readouterr().err
