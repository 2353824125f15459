"""Correlation tokens: what is minted, what is refused and why, what a rotation leaves good."""

from __future__ import annotations

import base64
import json
import stat
import warnings

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tappass.engine.issuer import Presenter
from tappass.engine.joining import join
from tappass.engine.leaves import Leaves
from tappass.engine.signing_keys import ISSUER_KEY_FILE, SigningKeys
from tappass.engine.store.sqlite import SqliteStore
from tappass.errors import TapPassConfigError, TapPassConnectionError
from tappass.plane.embedded import EmbeddedPlane
from tappass.testing import MemoryPlane
from tappass.verify import ALGORITHM, TYPE, CorrelationRefused, JwkSet, PublishedKeys, Verifier, keys_in
from tappass.wire.sessions import Opening

START = 1_900_000_000
ME, OTHER = Presenter(credential="key_me", agent="me"), Presenter(credential="key_other", agent="other")


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = START

    def time_ns(self) -> int:
        return self.now * 10**9

    monotonic_ns = time_ns


@pytest.fixture
def clock():
    return Hand()


@pytest.fixture
def memory(clock):
    made = MemoryPlane(clock=clock)
    yield made.plane
    made.plane.shutdown()


@pytest.fixture
def engine(memory):
    return memory.engine


@pytest.fixture
def session_id(engine):
    return engine.open(Opening(name="orders")).session_id


def parts(token):
    return [json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2]]


def b64(value):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(key, head, body):
    message = f"{b64(head)}.{b64(body)}"
    return f"{message}.{b64(key.sign(message.encode()))}"


def refused(call, problem):
    with pytest.raises(CorrelationRefused) as caught:
        call()
    assert caught.value.problem == problem
    return str(caught.value)


def test_a_token_holds_ids_and_times_alone_and_is_small(engine, session_id):
    stamp = engine.issuer.stamp(session_id, "billing", "tsk_1")
    head, body = parts(stamp.token)
    assert head == {"alg": ALGORITHM, "typ": TYPE, "kid": engine.issuer.keys.current().key_id}
    assert sorted(body) == sorted(["iss", "aud", "sid", "pid", "org", "agent", "iat", "exp", "jti"])
    assert (body["aud"], body["sid"], body["pid"], body["exp"] - body["iat"]) == ("billing", session_id, "tsk_1", 600)
    assert body["iss"] == engine.store.read.head().log_id
    assert len(stamp.token) < 700


def test_another_implementation_of_jws_agrees(engine, session_id):
    from joserfc import jws
    from joserfc.jwk import OKPKey

    token = engine.issuer.stamp(session_id, "billing").token
    (jwk,) = engine.issuer.keys.published()
    with warnings.catch_warnings():
        # RFC 9864 renames the algorithm; verifiers in use know it by this name.
        warnings.simplefilter("ignore")
        key = OKPKey.import_key(msgspec.to_builtins(jwk))
        found = jws.deserialize_compact(token, key, algorithms=[ALGORITHM])
    assert json.loads(found.payload)["sid"] == session_id
    assert key.thumbprint() == jwk.kid


def test_the_presenter_it_was_made_for_joins_and_the_log_says_so(engine, session_id):
    token = engine.issuer.stamp(session_id, "billing").token
    record = join(engine, token, "billing", ME)
    assert record.parent == session_id != record.session_id
    assert record.agent == "me"
    again = engine.issuer.stamp(session_id, "billing").token
    assert join(engine, again, "billing", ME).session_id == record.session_id
    assert join(engine, engine.issuer.stamp(session_id, "b").token, "b", OTHER).session_id != record.session_id
    joined = engine.store.read.events(type="session.joined")[0]
    assert (joined.session_id, joined.actor, joined.details["token"]) == (session_id, "me", parts(token)[1]["jti"])


def test_closing_what_was_joined_never_closes_the_original(engine, session_id):
    record = join(engine, engine.issuer.stamp(session_id, "billing").token, "billing", ME)
    engine.close(record.session_id, "failed")
    assert engine.store.read.session(record.session_id).status == "failed"
    assert engine.store.read.session(session_id).status == "open"
    assert engine.sessions.find(session_id).record.session_id == session_id


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        ("algorithm", lambda head, body: head.update(alg="none")),
        ("algorithm", lambda head, body: head.update(alg="HS256")),
        ("algorithm", lambda head, body: head.update(alg="Ed25519")),
        ("type", lambda head, body: head.update(typ="JWT")),
        ("key", lambda head, body: head.update(kid="another")),
        ("malformed", lambda head, body: head.update(jwk={"kty": "OKP"})),
        ("malformed", lambda head, body: head.update(crit=["b64"])),
        ("malformed", lambda head, body: head.pop("typ")),
        ("malformed", lambda head, body: body.pop("exp")),
        ("malformed", lambda head, body: body.update(exp="never")),
        ("expired", lambda head, body: body.update(iat=START - 700, exp=START - 100)),
        ("life", lambda head, body: body.update(exp=START + 3601)),
        ("life", lambda head, body: body.update(iat=START + 100, exp=START + 200)),
        ("life", lambda head, body: body.update(exp=body["iat"])),
        ("issuer", lambda head, body: body.update(iss="log_of_somebody_else")),
        ("audience", lambda head, body: body.update(aud="shipping")),
        ("organisation", lambda head, body: body.update(org="org_other")),
        ("session", lambda head, body: body.update(sid="ses_unknown")),
    ],
)
def test_a_token_that_is_wrong_in_one_thing_is_refused_for_it(engine, session_id, problem, change):
    head, body = parts(engine.issuer.stamp(session_id, "billing").token)
    assert engine.issuer.verify(signed(engine.issuer.keys.current(), head, body), "billing", ME).sid == session_id
    change(head, body)
    forged = signed(engine.issuer.keys.current(), head, body)
    message = refused(lambda: engine.issuer.verify(forged, "billing", OTHER), problem)
    assert message.startswith("the correlation token was refused: ")
    assert len(engine.store.read.events(type="session.joined")) == 1


def test_what_was_changed_or_made_up_is_refused(engine, session_id):
    issuer = engine.issuer
    token = issuer.stamp(session_id, "billing").token
    head, body, signature = token.split(".")
    raw = base64.urlsafe_b64decode(body + "==").replace(b"billing", b"payment")
    refused(lambda: issuer.verify(f"{head}.{b64(raw)}.{signature}", "payment", ME), "signature")
    stranger = Ed25519PrivateKey.generate()
    refused(lambda: issuer.verify(signed(stranger, *parts(token)), "billing", ME), "signature")
    refused(lambda: issuer.verify(f"{head}.{body}.", "billing", ME), "signature")
    # HMAC with the public key, as a verifier that believes the header would check it.
    import hmac

    public = issuer.keys.public(parts(token)[0]["kid"])
    confused = f"{b64({**parts(token)[0], 'alg': 'HS256'})}.{body}"
    confused += f".{b64(hmac.digest(public, confused.encode(), 'sha256'))}"
    refused(lambda: issuer.verify(confused, "billing", ME), "algorithm")


@pytest.mark.parametrize(
    "text", ["", "a", "a.b", "a.b.c.d", "..", "é.é.é", "e30.e30.e30", "x" * 5000, "[" * 1500 + ".e30.e30", "\0.\0.\0"]
)
def test_what_is_no_token_is_refused(engine, session_id, text):
    engine.issuer.stamp(session_id, "billing")
    refused(lambda: engine.issuer.verify(text, "billing", ME), "malformed")


def test_a_replay_is_refused_each_kind_with_its_own_message(engine, session_id):
    token = engine.issuer.stamp(session_id, "billing").token
    engine.issuer.verify(token, "billing", ME)
    said = {
        refused(lambda: engine.issuer.verify(token, "shipping", ME), "audience"),
        refused(lambda: engine.issuer.verify(token, "billing", OTHER), "credential"),
    }
    engine.close(session_id, "completed")
    said.add(refused(lambda: engine.issuer.verify(token, "billing", ME), "session"))
    assert len(said) == 3


def test_an_expired_token_is_refused_though_it_was_accepted_before(engine, session_id, clock):
    token = engine.issuer.stamp(session_id, "billing").token
    engine.issuer.verify(token, "billing", ME)
    clock.now += 606
    refused(lambda: engine.issuer.verify(token, "billing", ME), "expired")
    assert not engine.store.read.events(type="session.closed")


def test_a_closed_or_unknown_session_stamps_nothing(engine, session_id):
    with pytest.raises(TapPassConfigError, match="receiver of a correlation token is missing"):
        engine.issuer.stamp(session_id, " ")
    engine.close(session_id, "completed")
    for name in (session_id, "ses_unknown"):
        with pytest.raises(TapPassConfigError, match=f"session `{name}` is not open"):
            engine.issuer.stamp(name, "billing")


def test_a_rotation_signs_with_a_new_key_and_lets_the_old_tokens_expire(engine, session_id, clock):
    keys = engine.issuer.keys
    before = engine.issuer.stamp(session_id, "billing").token
    old = keys.current().key_id
    new = keys.rotate("os:ada")
    after = engine.issuer.stamp(session_id, "billing").token
    assert parts(after)[0]["kid"] == new != old
    assert {key.kid for key in keys.published()} == {old, new}
    assert engine.issuer.verify(before, "billing", ME).sid == engine.issuer.verify(after, "billing", ME).sid
    (leaf,) = engine.store.read.events(type="signing_key.rotated")
    assert (leaf.actor, leaf.details["replaces"], leaf.details["key_id"]) == ("os:ada", old, new)
    clock.now += 3606
    assert {key.kid for key in keys.published()} == {new}
    refused(lambda: engine.issuer.verify(before, "billing", ME), "key")


def test_a_retired_key_verifies_nothing_and_signs_nothing(engine, session_id):
    token = engine.issuer.stamp(session_id, "billing").token
    engine.issuer.keys.retire(engine.issuer.keys.current().key_id, "os:ada")
    refused(lambda: engine.issuer.verify(token, "billing", ME), "key")
    assert not engine.issuer.keys.published()
    with pytest.raises(TapPassConfigError, match="tappass issuer rotate"):
        engine.issuer.stamp(session_id, "billing")
    engine.issuer.keys.rotate("os:ada")
    assert engine.issuer.stamp(session_id, "billing").token


def test_the_key_lies_in_a_file_of_its_own_that_only_its_owner_reads(tmp_path):
    plane = EmbeddedPlane.at(tmp_path / "tappass.db")
    session_id = plane.sync.open(Opening()).session_id
    token = plane.sync.stamp(session_id, "billing").token
    file = tmp_path / ISSUER_KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    plane.shutdown()
    again = EmbeddedPlane.at(tmp_path / "tappass.db")
    assert again.engine.issuer.read(token).sid == session_id
    again.shutdown()
    file.chmod(0o644)
    other = EmbeddedPlane.at(tmp_path / "tappass.db")
    with pytest.raises(TapPassConfigError, match="can be read by other users"):
        other.sync.stamp(other.sync.open(Opening()).session_id, "billing")
    other.shutdown()


def test_servers_with_keys_of_their_own_take_each_others_tokens(tmp_path):
    first, second = (directory(tmp_path / name) for name in ("one", "two"))
    plane = EmbeddedPlane.at(tmp_path / "tappass.db")
    session_id = plane.sync.open(Opening()).session_id
    store, leaves = plane.engine.store, plane.engine.leaves
    one, two = SigningKeys(store, leaves, first), SigningKeys(store, leaves, second)
    assert one.current().key_id != two.current().key_id
    plane.engine.issuer.keys = one
    token = plane.sync.stamp(session_id, "billing").token
    plane.engine.issuer.keys = two
    assert plane.engine.issuer.verify(token, "billing", ME).sid == session_id
    # A rotation on one retires that one's key alone.
    one.rotate("os:ada")
    assert [key.retired_at for key in two.all() if key.key_id == two.current().key_id] == [""]
    plane.shutdown()


def directory(path):
    path.mkdir()
    return path


def test_another_process_signs_with_the_new_key_after_a_rotation(tmp_path):
    with SqliteStore(tmp_path / "tappass.db") as store:
        leaves = Leaves(Hand())
        here, there = SigningKeys(store, leaves, tmp_path, Hand()), SigningKeys(store, leaves, tmp_path, Hand())
        old = there.current().key_id
        new = here.rotate("os:ada")
        assert there.current().key_id == new != old
        assert len(store.read.events(type="signing_key.rotated")) == 1


def test_each_organisation_signs_with_a_key_of_its_own(tmp_path):
    with SqliteStore(tmp_path / "tappass.db") as store:
        one, two = (SigningKeys(store, Leaves(Hand(), org), tmp_path) for org in ("org_a", "org_b"))
        assert one.current().key_id != two.current().key_id
        assert one.public(two.current().key_id) is None


def test_another_planes_token_counts_only_where_it_is_trusted(engine, clock, monkeypatch):
    far = MemoryPlane(clock=clock)
    session_id = far.plane.engine.open(Opening()).session_id
    token = far.plane.sync.stamp(session_id, "billing").token
    engine.open(Opening())
    refused(lambda: engine.issuer.verify(token, "billing", ME), "key")

    document = msgspec.json.encode(JwkSet(keys=far.plane.engine.issuer.keys.published()))
    monkeypatch.setattr("tappass.verify.fetched", lambda url: document)
    name = far.plane.engine.issuer.name
    near = MemoryPlane(
        settings=f'[[trusted_issuer]]\nissuer = "{name}"\njwks = "https://far.example/.well-known/jwks.json"',
        clock=clock,
    )
    near.plane.engine.open(Opening())
    record = join(near.plane.engine, token, "billing", ME)
    assert record.parent == session_id
    refused(lambda: near.plane.engine.issuer.verify(token, "billing", OTHER), "credential")
    own = near.plane.engine.issuer.keys.current()
    forged = signed(own, {**parts(token)[0], "kid": own.key_id}, parts(token)[1])
    refused(lambda: near.plane.engine.issuer.verify(forged, "billing", ME), "key")
    for plane in (far, near):
        plane.plane.shutdown()


def test_offline_a_token_is_verified_by_what_the_issuer_publishes(engine, session_id, clock):
    asked = []

    def fetch(url):
        asked.append(url)
        return msgspec.json.encode(JwkSet(keys=engine.issuer.keys.published()))

    verifier = Verifier("https://plane.example/", audience="billing", clock=clock, fetch=fetch)
    token = engine.issuer.stamp(session_id, "billing").token
    assert verifier.verify(token).sid == session_id
    assert verifier.verify(token).agent
    assert asked == ["https://plane.example/.well-known/jwks.json"]
    shipping = engine.issuer.stamp(session_id, "shipping").token
    refused(lambda: verifier.verify(shipping), "audience")
    abroad = Verifier("https://plane.example", audience="billing", org_id="org_b", clock=clock, fetch=fetch)
    refused(lambda: abroad.verify(token), "organisation")


def test_an_unknown_key_is_looked_for_at_most_once_a_minute(clock):
    asked = []
    keys = PublishedKeys("https://plane.example", clock=clock, fetch=lambda url: asked.append(url) or b'{"keys":[]}')
    for _ in range(100):
        assert keys.key("nobody's") is None
    assert len(asked) == 1
    clock.now += 61
    assert keys.key("nobody's") is None
    assert len(asked) == 2


def test_an_issuer_that_is_away_does_not_take_its_known_keys_along(clock):
    known = b'{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"AAAA"}]}'
    answers = [known]

    def fetch(url):
        if not answers:
            raise TapPassConnectionError("away")
        return answers.pop()

    keys = PublishedKeys("https://plane.example", clock=clock, fetch=fetch)
    assert keys.key("a") == b"\0\0\0"
    clock.now += 700
    assert keys.key("a") == b"\0\0\0"
    clock.now += 100
    with pytest.raises(TapPassConnectionError):
        keys.key("b")
    clock.now += 90_000
    with pytest.raises(TapPassConnectionError):
        keys.key("a")


@pytest.mark.parametrize(
    "document", [b"", b"[]", b'{"keys":{}}', b'{"keys":[{"kty":"OKP","crv":"Ed25519"}]}', b"[" * 9999]
)
def test_what_is_no_key_set_is_refused(document):
    with pytest.raises(TapPassConnectionError):
        keys_in(document)


def test_keys_of_other_kinds_are_passed_over_and_their_number_is_bounded():
    many = [{"kty": "OKP", "crv": "Ed25519", "kid": str(n), "x": "AAAA"} for n in range(5000)]
    found = keys_in(json.dumps({"keys": [{"kty": "RSA", "kid": "rsa", "n": "x"}, *many]}).encode())
    assert 0 < len(found) <= 1000
    assert "rsa" not in found
