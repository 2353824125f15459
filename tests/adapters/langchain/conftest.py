"""A scripted model, and a plane with the policy of these tests."""

from __future__ import annotations

import pytest

from tests.adapters.langchain.mail import POLICY
from tests.adapters.scripted import ScriptedModel


@pytest.fixture
def model():
    with ScriptedModel() as scripted:
        yield scripted


@pytest.fixture
def plane(tappass_plane):
    tappass_plane.policy(POLICY)
    return tappass_plane
