from __future__ import annotations


def test_rotating_shows_the_old_key_as_good_for_a_while(recorded, tappass):
    assert tappass("issuer").code == 0
    first = tappass("issuer", "rotate", "--json").json["key_id"]
    second = tappass("issuer", "rotate", "--json").json["key_id"]
    listed = {key["key_id"]: key["retired_at"] for key in tappass("issuer", "keys", "--json").json}
    assert listed[second] == ""
    assert listed[first] > ""
    assert first in tappass("issuer").out


def test_a_retired_key_is_named_and_an_unknown_one_refused(recorded, tappass):
    key_id = tappass("issuer", "rotate", "--json").json["key_id"]
    assert tappass("issuer", "retire", key_id).code == 0
    again = tappass("issuer", "retire", key_id)
    assert again.code == 2
    assert "is no key that verifies here" in again.err


def test_only_an_approver_changes_keys(recorded, tappass, monkeypatch):
    monkeypatch.setenv("TAPPASS_APPROVER_KEY", "tp_approver_wrong")
    assert tappass("issuer", "rotate").code == 2
    assert tappass("issuer", "keys").code == 0
