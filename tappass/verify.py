"""Correlation tokens, checked offline by the keys that their issuer publishes: no plane is asked, no database read.

A token is a compact JWS (RFC 7515) with one fixed algorithm, Ed25519 (RFC 8037). It says where a call belongs and
never who calls: whoever takes one also asks for a key of the same organisation.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any, ClassVar, Final

import msgspec

from tappass import forking
from tappass.errors import TapPassConfigError, TapPassConnectionError
from tappass.extras import missing
from tappass.wire.ids import SYSTEM_CLOCK, Clock

TYPE: Final = "tappass-correlation+jwt"
ALGORITHM: Final = "EdDSA"
# Sessions may live for days; what names one may not.
LONGEST_LIFE_S: Final = 3600
# Clocks of two machines differ; a token is not refused for that.
LEEWAY_S: Final = 5
LONGEST: Final = 2048

_MOST_KEYS, _MOST_BYTES, _TIMEOUT_S = 1000, 262_144, 5.0
_FRESH_S, _STALE_S, _PAUSE_S = 600, 86_400, 60
_SECOND = 1_000_000_000


class CorrelationRefused(TapPassConfigError):
    """A correlation token does not hold, and so places nothing.

    Attributes:
        problem: which check it failed: `missing`, `malformed`, `algorithm`, `type`, `key`, `signature`, `issuer`,
            `audience`, `organisation`, `expired`, `life`, `credential` or `session`.
    """

    said: ClassVar = "the correlation token was refused: "

    def __init__(self, problem: str = "", why: str = "") -> None:
        super().__init__(f"{self.said}{why}")
        self.problem = problem


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What a token says: ids and times (seconds since 1970, UTC), no content.

    Attributes:
        iss: who issued it, the id of a log.
        aud: the receiver that it was made for.
        sid: the session that calls belong to.
        pid: the task that they come from, "" between tasks.
        org: the organisation whose session it is.
        agent: the agent whose session it is.
        iat: when it was issued.
        exp: until when it may be presented.
        jti: its own id.
    """

    iss: str
    aud: str
    sid: str
    org: str
    agent: str
    iat: int
    exp: int
    jti: str
    pid: str = ""


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The protected header; anything else in it (`jwk`, `jku`, `crit`) is refused."""

    alg: str
    typ: str
    kid: str


class Jwk(msgspec.Struct, frozen=True, kw_only=True):
    """An Ed25519 public key (RFC 8037, section 2)."""

    kid: str
    x: str
    kty: str = "OKP"
    crv: str = "Ed25519"
    alg: str = ALGORITHM
    use: str = "sig"


class JwkSet(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /.well-known/jwks.json`: the keys whose tokens may still be presented (RFC 7517, section 5)."""

    keys: tuple[Jwk, ...]


# From a key's id to its 32 bytes, None for a key that is none of the issuer's.
KeyOf = Callable[[str], bytes | None]


def encoded(raw: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    """Return the bytes of canonical base64url without padding.

    Raises:
        ValueError: it is not that.
    """
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if encoded(raw) != text:
        raise ValueError("not canonical base64url")
    return raw


def read_token(token: str, key_of: KeyOf, now_s: float) -> Claims:
    """Return what a token says, once its signature and its times hold.

    The algorithm is ours and never the token's choice. Whom it is for is the caller's to check, see `expect`.

    Raises:
        CorrelationRefused: it does not hold; `problem` says how.
        TapPassConfigError: the extra `verify` is not installed.
    """
    header, payload, signature = _parts(token)
    if header.alg != ALGORITHM:
        raise CorrelationRefused("algorithm", f"its algorithm is not {ALGORITHM}")
    if header.typ != TYPE:
        raise CorrelationRefused("type", "it is a token of another kind")
    key = key_of(header.kid)
    if key is None:
        raise CorrelationRefused("key", "it is signed with a key that is unknown here, or no longer good")
    if not _signed(key, token.rpartition(".")[0].encode(), signature):
        raise CorrelationRefused("signature", "its signature is wrong, so it was changed or made up")
    try:
        claims = msgspec.json.decode(payload, type=Claims)
    except (msgspec.MsgspecError, RecursionError):
        raise CorrelationRefused("malformed", "its claims cannot be read") from None
    _in_time(claims, now_s)
    return claims


def _parts(token: str) -> tuple[Header, bytes, bytes]:
    try:
        if len(token) > LONGEST:
            raise ValueError("too long")
        head, body, signature = token.split(".")
        return msgspec.json.decode(decoded(head), type=Header), decoded(body), decoded(signature)
    except (ValueError, binascii.Error, msgspec.MsgspecError, RecursionError):
        raise CorrelationRefused("malformed", "it is not a correlation token") from None


def _signed(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise missing("verify", "checking a correlation token") from error
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _in_time(claims: Claims, now_s: float) -> None:
    if not 0 < claims.exp - claims.iat <= LONGEST_LIFE_S or claims.iat > now_s + LEEWAY_S:
        raise CorrelationRefused("life", "it was issued in the future, or for longer than a token may live")
    if claims.exp + LEEWAY_S <= now_s:
        raise CorrelationRefused("expired", "it has expired; ask the caller for a fresh one")


def expect(claims: Claims, *, audience: str | tuple[str, ...], org_id: str) -> None:
    """Check whom a token is for.

    Raises:
        CorrelationRefused: it is another receiver's, or another organisation's.
    """
    audiences = (audience,) if isinstance(audience, str) else audience
    if claims.aud not in audiences:
        raise CorrelationRefused("audience", "it was made for another receiver")
    if claims.org != org_id:
        raise CorrelationRefused("organisation", "it is another organisation's")


class PublishedKeys:
    """An issuer's keys from the url where it publishes them: kept, bounded, asked for again at most once a minute.

    Args:
        url: of the key set, or of the plane: `/.well-known/jwks.json` is added to one without a path.
        clock: what time it is.
        fetch: how to get the document; by default with httpx, following no redirect.
    """

    def __init__(self, url: str, *, clock: Clock = SYSTEM_CLOCK, fetch: Callable[[str], bytes] | None = None) -> None:
        self.url = url if url.count("/") > 2 and not url.endswith("/") else f"{url.rstrip('/')}/.well-known/jwks.json"
        self._clock, self._fetch = clock, fetch or fetched
        self._lock = forking.Lock()
        self._keys: dict[str, bytes] = {}
        self._tried = self._loaded = -_STALE_S * _SECOND

    def key(self, kid: str) -> bytes | None:
        """Return a key, None if the issuer publishes none of that id.

        Raises:
            TapPassConnectionError: the keys cannot be had, and none that is kept will do.
        """
        with self._lock:
            known = self._keys.get(kid) if self._age(self._loaded) < _STALE_S else None
            if (known is None or self._age(self._loaded) > _FRESH_S) and self._age(self._tried) > _PAUSE_S:
                self._tried = self._clock.monotonic_ns()
                try:
                    self._keys = keys_in(self._fetch(self.url))
                except TapPassConnectionError:
                    if known is None:
                        raise
                    return known
                self._loaded = self._tried
                return self._keys.get(kid)
            return known

    def _age(self, then: int) -> float:
        return (self._clock.monotonic_ns() - then) / _SECOND


def keys_in(document: bytes) -> dict[str, bytes]:
    """Return the Ed25519 keys of a key set by id; keys of other kinds are passed over, as RFC 7517 asks.

    Raises:
        TapPassConnectionError: it is none.
    """
    try:
        listed = msgspec.json.decode(document, type=dict[str, list[dict[str, Any]]])["keys"]
        ours = [key for key in listed if key.get("kty") == "OKP" and key.get("crv") == "Ed25519"][:_MOST_KEYS]
        return {str(key["kid"]): decoded(str(key["x"])) for key in ours}
    except (msgspec.MsgspecError, KeyError, ValueError, RecursionError) as error:
        raise TapPassConnectionError("what the issuer publishes is not a set of keys") from error


def fetched(url: str) -> bytes:
    """Return a small document; its size and the time it takes are bounded.

    Raises:
        TapPassConnectionError: it cannot be had.
    """
    import httpx

    try:
        with (
            httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False) as client,
            client.stream("GET", url, headers={"Accept": "application/json"}) as answer,
        ):
            document = b""
            for piece in answer.iter_bytes(8192):
                document += piece
                if len(document) > _MOST_BYTES:
                    raise TapPassConnectionError(f"the keys at {url} are more than {_MOST_BYTES} bytes")
            if answer.status_code != httpx.codes.OK:
                raise TapPassConnectionError(f"the keys at {url} cannot be had: it answers {answer.status_code}")
            return document
    except httpx.HTTPError as error:
        raise TapPassConnectionError(f"the keys at {url} cannot be had ({type(error).__name__})") from error


class Verifier:
    """Checks tokens for one receiver, by the keys that the plane at a url publishes.

    It cannot see whether somebody else presented a token before, or whether its session is still open: who joins a
    session asks the plane, and the plane sees both.

    Args:
        url: the plane that issues the tokens.
        audience: the receiver's name, as callers stamp for it.
        org_id: the organisation that callers must be of.
        clock: what time it is.
        fetch: how to get the keys, for tests and for clients of one's own.
    """

    def __init__(
        self,
        url: str,
        *,
        audience: str,
        org_id: str = "org_local",
        clock: Clock = SYSTEM_CLOCK,
        fetch: Callable[[str], bytes] | None = None,
    ) -> None:
        self._keys = PublishedKeys(url, clock=clock, fetch=fetch)
        self._audience, self._org_id, self._clock = audience, org_id, clock

    def verify(self, token: str) -> Claims:
        """Return what a token says. Fetches keys now and then: from async code, call it in a thread.

        Raises:
            CorrelationRefused: it does not hold.
            TapPassConnectionError: the issuer's keys cannot be had.
        """
        claims = read_token(token, self._keys.key, self._clock.time_ns() / _SECOND)
        expect(claims, audience=self._audience, org_id=self._org_id)
        return claims


__all__ = [
    "Claims",
    "CorrelationRefused",
    "Jwk",
    "JwkSet",
    "PublishedKeys",
    "Verifier",
    "expect",
    "read_token",
]
