from __future__ import annotations

from types import SimpleNamespace

import pytest

from tappass.engine.audit.checkpoint import Checkpointer
from tappass.engine.audit.export import export
from tappass.engine.audit.keys import log_key
from tappass.engine.store.sqlite import SqliteStore
from tests.engine.store.events import decide, ending, task


def write_calls(store, count):
    for number in range(count):
        name = task()
        decide(store, name, f"content {number}".encode())
        store.later(ending(name, name="pay"))
    store.flush()


@pytest.fixture
def audited(tmp_path):
    """A store with ten calls under a checkpoint and ten more, and how to export and verify it."""
    store = SqliteStore(tmp_path / "tappass.db")
    key = log_key(tmp_path)
    witness = tmp_path / "witness"
    signer = Checkpointer(store, key, witness=witness)
    write_calls(store, 10)
    signer.write_all()
    write_calls(store, 10)

    def exported(**options):
        path = tmp_path / "export.jsonl"
        with open(path, "wb") as out:
            header = export(store, out, key, **options)
        return SimpleNamespace(path=path, key=header.key, header=header, lines=path.read_bytes().splitlines())

    yield SimpleNamespace(store=store, key=key, witness=witness, signer=signer, export=exported, tmp_path=tmp_path)
    store.close()
