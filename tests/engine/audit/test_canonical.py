from __future__ import annotations

import msgspec
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tappass.engine.audit.leaf import decode, encode
from tappass.wire.codec import canonical
from tappass.wire.events import AuditEvent

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
COUNT = st.integers(0, 2**53 - 1)
BY_TYPE = {
    "str": TEXT,
    "int": COUNT,
    "str | None": st.none() | TEXT,
    "tuple[str, ...]": st.lists(TEXT, max_size=3).map(tuple),
    "tuple[int, ...]": st.lists(COUNT, max_size=2).map(tuple),
    "dict[str, str]": st.dictionaries(st.text(st.characters(codec="ascii"), max_size=8), TEXT, max_size=4),
}
EVENTS = st.fixed_dictionaries(
    {}, optional={name: BY_TYPE[hint] for name, hint in AuditEvent.__annotations__.items()}
).map(lambda fields: AuditEvent(**{"at": "", "type": "", "org_id": "", "project_id": "", **fields}))


@given(EVENTS)
def test_the_bytes_of_a_leaf_equal_rfc_8785(event):
    data = canonical(event)
    assert data == rfc8785.dumps(msgspec.json.decode(data))
    assert msgspec.json.decode(data, type=AuditEvent) == event


@given(EVENTS)
def test_the_verifier_writes_a_leaf_as_the_log_does(event):
    event = msgspec.structs.replace(event, log_id="log_1", epoch=1)
    assert encode(decode(canonical(event))) == canonical(event)


def test_what_is_absent_from_a_leaf_is_the_empty_value_of_its_type():
    empty = AuditEvent(at="t", type="x", org_id="o", project_id="p")
    assert canonical(empty) == b'{"at":"t","org_id":"o","project_id":"p","seq":0,"type":"x","v":1}'
    for field in msgspec.structs.fields(AuditEvent):
        if field.name not in ("v", "seq") and not field.required:
            assert not getattr(empty, field.name), field.name


def test_no_leaf_holds_a_float():
    assert "float" not in " ".join(AuditEvent.__annotations__.values())
