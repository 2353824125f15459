"""`GET /.well-known/jwks.json`: the public keys that correlation tokens are signed with, of every organisation here."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from litestar import Response, get

from tappass.engine.hopping import hop
from tappass.engine.leaves import Leaves
from tappass.engine.signing_keys import SigningKeys
from tappass.server.auth import PUBLIC
from tappass.server.house import House
from tappass.verify import Jwk, JwkSet

_CACHE_CONTROL = "public, max-age=60"
# Anybody may ask, as often as they like: the database is asked once in two seconds.
_KEPT_NS = 2_000_000_000
_kept: WeakKeyDictionary[House, tuple[int, JwkSet]] = WeakKeyDictionary()


@get(
    "/.well-known/jwks.json",
    opt={"scope": PUBLIC},
    summary="The keys that verify correlation tokens (RFC 7517)",
    tags=["sessions"],
)
async def show_keys(house: House) -> Response[JwkSet]:
    """Return every key whose tokens may still be presented; asks for no key."""
    kept = _kept.get(house)
    if kept is None or house.clock.monotonic_ns() > kept[0]:
        published = await hop(_published, house)
        kept = _kept[house] = (house.clock.monotonic_ns() + _KEPT_NS, published)
    return Response(kept[1], headers={"Cache-Control": _CACHE_CONTROL})


def _published(house: House) -> JwkSet:
    found: list[Jwk] = []
    for org_id in sorted({row[0] for row in house.store.read.organisations()}):
        keys = SigningKeys(house.store.scoped(org_id), Leaves(house.clock, org_id), None, house.clock)
        found += keys.published()
    return JwkSet(keys=tuple(found))


ROUTES = [show_keys]
