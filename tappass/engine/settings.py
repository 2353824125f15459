"""Settings: `tappass.toml` as typed values, read strictly; what the file does not say has a default."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

import msgspec

from tappass import forking
from tappass.engine.policy import globs
from tappass.engine.policy.problems import Problem, choices, failed, meant
from tappass.errors import TapPassConfigError
from tappass.wire.codec import canonical

NAME = "tappass.toml"

_Positive = Annotated[int, msgspec.Meta(ge=1, le=10**12)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class AuditSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[audit]`: how durable a record is, what is kept beside it, where checkpoints go.

    `witness` is a file that the writer of the log cannot rewrite, "" for none.
    """

    synchronous: Literal["normal", "full"] = "normal"
    content: Literal["none", "redacted", "full"] = "redacted"
    witness: str = ""
    checkpoint_every_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 60


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[limits]`: the most bytes that one call's arguments may have, and that are stored of one call's content.

    `completion_tokens` is the most that an answer is taken to have where a chat turn does not say so itself.
    """

    argument_bytes: _Positive = 4_000_000
    content_bytes: _Positive = 1_000_000
    completion_tokens: Annotated[int, msgspec.Meta(ge=1, le=10**9)] = 4096


class PolicySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[policy]`: whether a changed file waits for `tappass policy accept`, or rules at once (for development)."""

    reload: Literal["accept", "auto"] = "accept"


RECORD: Final = "record"
FIRST_USE: Final = "first-use"
APPROVE: Final = "approve"


class ToolSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[tools]`: whether a tool whose definition is new or has changed runs; your own, and those of MCP servers."""

    integrity: Literal["record", "first-use", "approve"] = RECORD
    mcp_integrity: Literal["record", "first-use", "approve"] = FIRST_USE


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[agent]`: who acts where code names nobody; "" stands for `default`."""

    name: Annotated[str, msgspec.Meta(max_length=200)] = ""


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[server]`: the address that `audit_url`s begin with, and what `tappass serve` takes from strangers.

    `body_bytes` is the largest body of a request, `batch_bytes` that of an array of events or endings; `metrics` is
    who may read `/metrics`.
    """

    url: str = "http://127.0.0.1:9620"
    body_bytes: Annotated[int, msgspec.Meta(ge=1024, le=10**9)] = 5_000_000
    batch_bytes: Annotated[int, msgspec.Meta(ge=1024, le=10**9)] = 16_000_000
    body_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 15.0
    metrics: Literal["admin", "open", "off"] = "admin"


class CorrelationSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[correlation]`: how long a token may be presented."""

    lifetime_s: Annotated[int, msgspec.Meta(ge=10, le=3600)] = 600


class TrustedIssuer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[trusted_issuer]]`: another plane whose correlation tokens count here, and where it publishes its keys."""

    issuer: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    jwks: str


class Upstream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[upstream]]`: which models (a glob) are asked where, with the key in which environment variable."""

    match: Annotated[str, msgspec.Meta(min_length=1, max_length=globs.LONGEST)]
    base_url: str
    key_env: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?\Z")] = ""
    timeout_s: _Seconds = 120.0


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What a million tokens cost in USD, as decimal numbers in text."""

    input: str
    output: str


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. `url` is the plane that calls ask where code and environment name none."""

    url: str = ""
    audit: AuditSettings = AuditSettings()
    limits: LimitSettings = LimitSettings()
    policy: PolicySettings = PolicySettings()
    agent: AgentSettings = AgentSettings()
    tools: ToolSettings = ToolSettings()
    server: ServerSettings = ServerSettings()
    correlation: CorrelationSettings = CorrelationSettings()
    trusted_issuers: tuple[TrustedIssuer, ...] = msgspec.field(default=(), name="trusted_issuer")
    upstreams: tuple[Upstream, ...] = msgspec.field(default=(), name="upstream")
    prices: dict[str, Price] = {}

    @property
    def bundle(self) -> bytes:
        """The canonical bytes that `from_bundle` takes; equal settings have equal ones."""
        return canonical(self)

    @classmethod
    def from_bundle(cls, bundle: bytes) -> Settings:
        """Return the settings that have this `bundle`.

        Raises:
            TapPassConfigError: the bytes are none that this version can read.
        """
        try:
            return msgspec.json.decode(bundle, type=cls)
        except msgspec.DecodeError as error:
            raise TapPassConfigError(
                f"the stored settings cannot be read by this version of tappass ({error}); run `tappass policy accept`"
            ) from error

    def upstream_for(self, model: str) -> Upstream | None:
        """Return the first upstream whose glob matches a model's name."""
        return next((upstream for upstream in self.upstreams if globs.matches(upstream.match, model)), None)

    def price_for(self, model: str) -> Price | None:
        """Return the price of a model: of its very name, else of the first glob in alphabetical order."""
        exact = self.prices.get(model)
        return exact or next((self.prices[glob] for glob in sorted(self.prices) if globs.matches(glob, model)), None)


_AT = re.compile(r" - at `\$?\.?(.*)`$")
_TOML_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$")
_MISSING = re.compile(r"Object missing required field `(.*)`$")


def read_settings(name: str, body: bytes) -> Settings:
    """Return the settings that a file holds.

    Raises:
        TapPassConfigError: it is not TOML, a key is unknown, or a value is of the wrong type or out of bounds; the
            key is named, and its line where it can be found.
    """
    with forking.unforked:
        import tomllib

    try:
        text = body.decode("utf-8-sig")
        table = tomllib.loads(text)
    except UnicodeDecodeError:
        raise _wrong(Problem(name, 1, 1, "the file is not UTF-8 text")) from None
    except tomllib.TOMLDecodeError as error:
        found = _TOML_PLACE.search(str(error))
        line, column = (int(found[1]), int(found[2])) if found else (text.count("\n") + 1, 0)
        raise _wrong(Problem(name, line, column, f"not valid TOML: {_TOML_PLACE.sub('', str(error))}")) from None
    except RecursionError:
        raise _wrong(Problem(name, 1, 1, "the file is nested too deeply")) from None
    problems = [Problem(name, _line(text, key), 0, f"`{key}` {said}") for key, said in _take_prices(table)]
    settings = Settings()
    try:
        settings = msgspec.convert(table, Settings, strict=True)
    except msgspec.ValidationError as error:
        key, said = _explained(str(error))
        problems.append(Problem(name, _line(text, key), 0, said))
    problems += [Problem(name, _line(text, key), 0, said) for key, said in _bad_urls(settings)]
    if problems:
        raise _wrong(*problems)
    return settings


def _wrong(*problems: Problem) -> TapPassConfigError:
    return failed(problems, what="the settings cannot be used")


def _take_prices(table: dict[str, Any]) -> list[tuple[str, str]]:
    """Turn prices, numbers or text, into decimal text; return what is wrong with them, by key."""
    prices, problems = table.get("prices"), []
    if not isinstance(prices, dict):
        return []
    for model, price in prices.items():
        key = f"prices.{model}"
        if not isinstance(price, dict) or set(price) != {"input", "output"}:
            problems.append((key, "must be {input = ..., output = ...}, in USD for a million tokens"))
            continue
        for side, amount in price.items():
            text = _amount(amount)
            problems += [(f"{key}.{side}", "must be a number, 0 or more")] if text is None else []
            price[side] = text or "0"
    if problems:
        del table["prices"]
    return problems


def _amount(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return format(number.normalize(), "f") if number.is_finite() and 0 <= number < 10**9 else None


def _explained(said: str) -> tuple[str, str]:
    """Return the key that msgspec's message is about, and the message for people."""
    found = _AT.search(said)
    key, said = (found[1] if found else ""), _AT.sub("", said)
    if unknown := _UNKNOWN.match(said):
        full = f"{key}.{unknown[1]}".strip(".")
        return full, f"unknown key `{full}`; {meant(unknown[1], _fields_at(key))}"
    if missing := _MISSING.match(said):
        return key, f"`{key}` needs `{missing[1]}`"
    if said.startswith("Invalid enum value"):
        return key, f"`{key}` must be one of {choices(sorted(get_args(_type_at(key))))}"
    if "matching regex" in said:
        return key, f"`{key}` must be the name of an environment variable, never the key itself"
    return key, f"`{key}`: {said[:1].lower()}{said[1:]}"


_LISTED: Final[dict[str, Any]] = {"upstream": Upstream, "trusted_issuer": TrustedIssuer}


def _fields_at(key: str) -> list[str]:
    """Return the keys that there are beneath a key."""
    return [field.encode_name for field in msgspec.structs.fields(_type_at(key))]


def _type_at(key: str) -> Any:
    """Return the type that the value of a key has."""
    type_: Any = Settings
    for part in filter(None, re.sub(r"\[[^\]]*\]", "", key).split(".")):
        types = {field.encode_name: field.type for field in msgspec.structs.fields(type_)}
        type_ = _LISTED.get(part) or types[part]
    return type_


def _line(text: str, key: str) -> int:
    """Return the line that a key stands on, as far as a search finds it; 0 if it does not."""
    *tables, last = re.sub(r"\[[^\]]*\]", "", key).split(".") or [""]
    within, lines = "", text.splitlines()
    for number, line in enumerate(lines, 1):
        bare = line.strip()
        if bare.startswith("["):
            within = bare.strip("[] ").partition("]")[0].replace('"', "")
            if within == key:
                return number
        elif within == ".".join(tables) and bare.partition("=")[0].strip().strip('"') == last:
            return number
    return next((n for n, line in enumerate(lines, 1) if last and last in line), 0)


def _bad_urls(settings: Settings) -> list[tuple[str, str]]:
    asked = [("server.url", settings.server.url)]
    asked += [("upstream.base_url", upstream.base_url) for upstream in settings.upstreams]
    asked += [("trusted_issuer.jwks", trusted.jwks) for trusted in settings.trusted_issuers]
    return [
        (key, f"`{key}` must be an http or https address")
        for key, url in asked
        if not (key.startswith("upstream") and url == "local:") and not _is_address(url)
    ]


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        return False
