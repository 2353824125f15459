"""Correlation tokens: minted for one receiver, accepted from one credential, while their session is open.

A token places a call and never authenticates anybody. Who presents one has shown a key of the same organisation
before; what this adds is that the first to present it is the only one who may.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tappass.engine.leaves import Leaves
from tappass.engine.settings import Settings, TrustedIssuer
from tappass.engine.signing_keys import SigningKeys
from tappass.engine.store.port import Store, Tx
from tappass.engine.words import worded
from tappass.errors import TapPassConfigError
from tappass.verify import (
    ALGORITHM,
    LEEWAY_S,
    TYPE,
    Claims,
    CorrelationRefused,
    Header,
    PublishedKeys,
    decoded,
    encoded,
    expect,
    read_token,
)
from tappass.wire.codec import encode
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock, Ids, rfc3339
from tappass.wire.service import Stamp

_LONGEST_AUDIENCE = 300
_SECOND = 1_000_000_000

_SESSION = "SELECT status, agent_uuid FROM session WHERE session_id = ? AND org_id = ?"
_BIND = (
    "INSERT INTO correlation_token (token_id, org_id, session_id, audience, presented_by, expires_at)"
    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_BOUND = "SELECT presented_by FROM correlation_token WHERE token_id = ? AND org_id = ?"
_PURGE = "DELETE FROM correlation_token WHERE org_id = ? AND expires_at < ?"


class Presenter(msgspec.Struct, frozen=True, kw_only=True):
    """Who presents a token: the credential that authenticated them, and the agent it belongs to."""

    credential: str
    agent_uuid: str = ""
    agent: str = ""


class Issuer:
    """Mints and accepts the tokens of one organisation.

    Args:
        store: where sessions, keys and accepted tokens are.
        leaves: how a joining is put into the log.
        keys: what tokens are signed with.
        settings: how long a token lives, and which other issuers are trusted; asked at every use.
        clock: what time it is.
        ids: where ids come from.
    """

    def __init__(
        self,
        store: Store,
        leaves: Leaves,
        keys: SigningKeys,
        settings: Callable[[], Settings] = Settings,
        *,
        clock: Clock = SYSTEM_CLOCK,
        ids: Ids = UUID_IDS,
    ) -> None:
        self.keys = keys
        self._settings = settings
        self._store, self._leaves = store, leaves
        self._clock, self._ids = clock, ids
        self._foreign: dict[TrustedIssuer, PublishedKeys] = {}
        self._log_id = ""

    @property
    def name(self) -> str:
        """What tokens call their issuer: the id of the organisation's log."""
        if not self._log_id:
            head = self._store.read.head(self._leaves.org_id)
            if head is None:
                raise TapPassConfigError("no session was ever opened here, so there is none to stamp a token for")
            self._log_id = head.log_id
        return self._log_id

    def stamp(self, session_id: str, audience: str, task_id: str = "") -> Stamp:
        """Mint a token for one receiver.

        Raises:
            TapPassConfigError: the session is not open, or the receiver is not named.
            TapPassConnectionError: the signing key cannot be read, made or recorded.
        """
        audience = worded(audience, "the receiver of a correlation token", longest=_LONGEST_AUDIENCE)
        row = self._store.read.row(_SESSION, (session_id, self._leaves.org_id))
        if row is None or row[0] != "open":
            raise TapPassConfigError(f"session `{session_id}` is not open on this plane, so it stamps no token")
        key, now = self.keys.current(), self._clock.time_ns() // _SECOND
        claims = Claims(
            iss=self.name,
            aud=audience,
            sid=session_id,
            pid=task_id,
            org=self._leaves.org_id,
            agent=row[1],
            iat=now,
            exp=now + self._settings().correlation.lifetime_s,
            jti=self._ids.new("tok"),
        )
        header = Header(alg=ALGORITHM, typ=TYPE, kid=key.key_id)
        signed = f"{encoded(encode(header))}.{encoded(encode(claims))}"
        return Stamp(token=f"{signed}.{encoded(key.sign(signed.encode()))}", expires_at=rfc3339(claims.exp * _SECOND))

    def verify(self, token: str, audience: str | tuple[str, ...], presenter: Presenter) -> Claims:
        """Return what a token says, once it holds for that receiver and that presenter; the first binds it.

        Raises:
            CorrelationRefused: it is foreign, expired, tampered with, replayed, or its session is closed.
            TapPassConnectionError: the first presentation cannot be recorded.
        """
        claims = self.read(token)
        expect(claims, audience=audience, org_id=self._leaves.org_id)
        self._store.run(lambda tx: self._accept(tx, claims, presenter))
        return claims

    def read(self, token: str) -> Claims:
        """Return what a token of this issuer, or of a trusted one, says; for whom it is, is not looked at.

        Raises:
            CorrelationRefused: it is foreign, expired or tampered with.
        """
        now_s = self._clock.time_ns() / _SECOND
        for trusted in self._settings().trusted_issuers:
            if (said := _unverified_issuer(token)) and said == trusted.issuer != self.name:
                claims = read_token(token, self._published(trusted).key, now_s)
                return self._issued_by(claims, trusted.issuer)
        return self._issued_by(read_token(token, self.keys.public, now_s), self.name)

    def is_own(self, claims: Claims) -> bool:
        """Tell whether a token is of this issuer, so that its session is one of this database."""
        return claims.iss == self.name

    def _issued_by(self, claims: Claims, issuer: str) -> Claims:
        if claims.iss != issuer:
            raise CorrelationRefused("issuer", "it was issued elsewhere; `trusted_issuers` names whom else to believe")
        return claims

    def _accept(self, tx: Tx, claims: Claims, presenter: Presenter) -> None:
        org_id, own = self._leaves.org_id, self.is_own(claims)
        if own:
            row = tx.execute(_SESSION, (claims.sid, org_id)).fetchone()
            if row is None or row[0] != "open":
                raise CorrelationRefused("session", "its session is closed; nothing more can be placed in it")
        token_id = claims.jti if own else f"{claims.iss}:{claims.jti}"
        # Kept for as long as the token could be presented.
        until = rfc3339((claims.exp + LEEWAY_S) * _SECOND)
        bound = (token_id, org_id, claims.sid, claims.aud, presenter.credential, until)
        if tx.execute(_BIND, bound).rowcount:
            tx.execute(_PURGE, (org_id, self._leaves.now()))
            self._note(tx, claims, presenter)
        elif tx.execute(_BOUND, (token_id, org_id)).fetchone()[0] != presenter.credential:
            raise CorrelationRefused("credential", "somebody else presented it first; each caller needs its own")

    def _note(self, tx: Tx, claims: Claims, presenter: Presenter) -> None:
        tx.append(
            self._leaves.event(
                "session.joined",
                session_id=claims.sid,
                agent_uuid=presenter.agent_uuid,
                actor=presenter.agent,
                parent=claims.pid,
                details={"token": claims.jti, "issuer": claims.iss, "agent": claims.agent},
            )
        )

    def _published(self, trusted: TrustedIssuer) -> PublishedKeys:
        if trusted not in self._foreign:
            self._foreign[trusted] = PublishedKeys(trusted.jwks, clock=self._clock)
        return self._foreign[trusted]


class _Issued(msgspec.Struct):
    iss: str = ""


def _unverified_issuer(token: str) -> str:
    """Return who a token says issued it: only to choose whose keys must then prove it."""
    try:
        return msgspec.json.decode(decoded(token.split(".")[1]), type=_Issued).iss
    except (ValueError, IndexError, msgspec.MsgspecError, RecursionError):
        return ""
