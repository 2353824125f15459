"""docs/a2a.md does what it says, here where its framework is."""

from __future__ import annotations

import os

from tests.serving import ROOT, python_path
from tests.structure.pages import Reader, blocks


def test_the_page_works_when_followed(tmp_path):
    (tmp_path / "reader").mkdir()
    reader = Reader(directory=tmp_path / "reader", environment=dict(os.environ) | {"PYTHONPATH": python_path()})
    followed = [block for block in blocks(ROOT / "docs" / "a2a.md") if block.option("needs")]
    assert followed
    for block in followed:
        reader.follow(block)
    assert not reader.trouble, "\n\n".join(["", *reader.trouble])
