"""A correlation token that a server refuses is refused here in the same words."""

from __future__ import annotations

import pytest

from tappass.plane.refused import token_refusal_in
from tappass.server.problems import on_token
from tappass.verify import CorrelationRefused


def test_a_refusal_is_the_same_here_as_there():
    there = CorrelationRefused("audience", "it was made for another receiver")
    here = token_refusal_in(on_token(None, there).content)
    assert (here.problem, str(here)) == (there.problem, str(there))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"error":{}}', b'{"error":{"code":"scope"}}', b'{"error":7}'])
def test_other_errors_are_none(body):
    assert token_refusal_in(body) is None
