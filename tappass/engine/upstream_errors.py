"""What to say when an upstream does not answer as it should: never its key, never a payload."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tappass.engine.openai_shapes import read_body
from tappass.errors import TapPassConnectionError

if TYPE_CHECKING:
    import httpx

_NEXT = {
    400: "the upstream refuses this request: check the model's name, the parameters and the length of the prompt",
    401: "check the key",
    403: "check the key and what it may do",
    404: "check `base_url` and the model's name",
    408: "try again later",
    413: "send a shorter prompt",
    422: "the upstream refuses this request: check the parameters",
    429: "its rate limit or quota is used up; try again later",
}
_CODE_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz_")


def refused(upstream: str, status: int, body: bytes, key_env: str = "") -> TapPassConnectionError:
    """Return the error for an answer that is not 2xx."""
    code = _code(body)
    said = f"{status} ({code})" if code else str(status)
    advice = _advice(status)
    if status in (401, 403):
        advice += f" in {key_env}" if key_env else "; this upstream has no `key_env` in its settings"
    return TapPassConnectionError(f"upstream {upstream} answered {said}; {advice}")


def unreachable(upstream: str, error: httpx.HTTPError, timeout_s: float) -> TapPassConnectionError:
    """Return the error for a request that got no answer, or not the whole of it."""
    import httpx

    if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
        return TapPassConnectionError(
            f"upstream {upstream} cannot be reached; check `base_url` in [[upstream]] and whether it runs"
        )
    if isinstance(error, httpx.TimeoutException):
        return TapPassConnectionError(
            f"upstream {upstream} was silent for {timeout_s:g} s; try again, or raise its `timeout_s` in [[upstream]]"
        )
    # httpx's own text may quote headers and bytes, so only the kind of error is told.
    return TapPassConnectionError(f"upstream {upstream} broke off ({type(error).__name__}); try again")


def malformed(upstream: str, what: str) -> TapPassConnectionError:
    """Return the error for an answer in a shape that chat completions do not have."""
    return TapPassConnectionError(
        f"upstream {upstream} {what}; check that `base_url` leads to an OpenAI-compatible API (it often ends in /v1)"
    )


def truncated(upstream: str) -> TapPassConnectionError:
    """Return the error for a stream that ends before its answer does."""
    return TapPassConnectionError(f"upstream {upstream} ended its stream before the answer was complete; try again")


def failed_midway(upstream: str, error: object) -> TapPassConnectionError:
    """Return the error for a stream that reports an error of its own."""
    code = _identifier(error)
    return TapPassConnectionError(
        f"upstream {upstream} reported an error in its answer{f' ({code})' if code else ''}; try again"
    )


def _advice(status: int) -> str:
    if status in _NEXT:
        return _NEXT[status]
    if 300 <= status < 400:
        return "redirects are not followed, since a key goes only where it was meant for; set `base_url` to the end"
    return "try again later" if status >= 500 else "check [[upstream]] in the settings"


def _code(body: bytes) -> str:
    try:
        return _identifier(read_body(body).error)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _identifier(error: object) -> str:
    """Return `code` or `type` of an OpenAI error if it is a plain identifier; a key or a prompt is not one."""
    if not isinstance(error, dict):
        return ""
    for name in ("code", "type"):
        value = error.get(name)
        if isinstance(value, str) and 0 < len(value) <= 40 and _CODE_LETTERS.issuperset(value):
            return value
    return ""
