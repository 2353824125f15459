"""Globs know `*` and `?` and nothing else, and take no longer than glob times name."""

from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tappass.engine.policy.globs import is_exact, matches


@pytest.mark.parametrize(
    ("glob", "name", "yes"),
    [
        ("*", "", True),
        ("?", "", False),
        ("", "", True),
        ("a.c", "abc", False),
        ("a*c", "a\nc", True),
        ("a[b]", "ab", False),
        ("gpt-*", "xgpt-4", False),
        ("gpt-*", "GPT-4", False),
        ("*a", "aXa", True),
        ("a*a", "a", False),
        ("*?*", "", False),
        ("a**b", "ab", True),
        ("?*?", "ab", True),
        ("*é?", "xé\ud800", True),
    ],
)
def test_globs_know_only_star_and_question_mark(glob, name, yes):
    assert matches(glob, name) is yes


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=10))
@example("a*b?a*", "abbaab")
@example("*a?*a", "aba")
def test_globs_match_what_the_standard_library_matches(glob, name):
    assert matches(glob, name) is fnmatch.fnmatchcase(name, glob)
    assert is_exact(glob) is not any(letter in glob for letter in "*?")


def test_a_hostile_name_takes_no_exponential_time():
    started = time.perf_counter()
    assert not matches("*a?" * 60 + "b", "a" * 20_000)
    assert time.perf_counter() - started < 5
