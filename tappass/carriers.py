"""Where a correlation token lies in what goes from one process to another: headers, an environment, a message."""

from __future__ import annotations

import copy
import os
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tappass.errors import TapPassConfigError
from tappass.verify import LONGEST, CorrelationRefused
from tappass.wire.service import CORRELATION

VARIABLE: Final = "TAPPASS_CORRELATION"
# Of the Agent2Agent protocol (section 4.6): declared in the agent's card, and named before what it adds to metadata.
EXTENSION: Final = "urn:tappass:a2a:correlation:v1"
METADATA: Final = f"{EXTENSION}/token"
TRACE: Final = "traceparent"

_ALPHABET = frozenset(string.ascii_letters + string.digits + "-_.")


def token_in(carrier: Any) -> str | None:
    """Return the token that something brought along, None if it brought none.

    Args:
        carrier: headers (a mapping, or pairs as ASGI has them), `os.environ`, or an object with `metadata`; None brings
            nothing. A request's metadata comes before its message's.

    Raises:
        CorrelationRefused: there is more than one token, or what stands there is none.
        TapPassConfigError: it is nothing that can bring one.
    """
    if carrier is None:
        return None
    if carrier is os.environ:
        return _sound([carrier[VARIABLE]]) if carrier.get(VARIABLE) else None
    if isinstance(carrier, Mapping | Sequence) and not isinstance(carrier, str | bytes):
        return _sound([value for name, value in _pairs(carrier) if _is(name, CORRELATION)])
    for message in (carrier, getattr(carrier, "message", None)):
        metadata = getattr(message, "metadata", None)
        if metadata is not None and METADATA in metadata:
            return _sound([metadata[METADATA]])
    if hasattr(carrier, "metadata"):
        return None
    raise _unknown(carrier)


def stamped(carrier: Any, token: str) -> Any:
    """Return what a caller is to send: the same kind of thing with a token in it. The original stays as it is.

    Raises:
        TapPassConfigError: nothing of this kind can bring a token.
    """
    trace = _traceparent()
    if carrier is os.environ:
        return dict(carrier) | {VARIABLE: token} | ({TRACE.upper(): trace} if trace else {})
    if carrier is None or (isinstance(carrier, Mapping | Sequence) and not isinstance(carrier, str | bytes)):
        return _headers({} if carrier is None else carrier, token, trace)
    if not hasattr(carrier, "metadata"):
        raise _unknown(carrier)
    twin = copy.deepcopy(carrier)
    if twin.metadata is None:
        twin.metadata = {}
    twin.metadata.update({METADATA: token})
    message = getattr(twin, "message", twin)
    declared = getattr(message, "extensions", None)
    if declared is not None and EXTENSION not in declared:
        declared.append(EXTENSION)
    return twin


def _headers(carrier: Any, token: str, trace: str) -> Any:
    # One that was forwarded would stand beside ours, and two are refused.
    kept = [(name, value) for name, value in _pairs(carrier) if not _is(name, CORRELATION)]
    added = {CORRELATION: token}
    if trace and not any(_is(name, TRACE) for name, _ in kept):
        added[TRACE] = trace
    if isinstance(carrier, Mapping):
        return dict(kept) | added
    if kept and isinstance(kept[0][0], str):
        return [*kept, *added.items()]
    return [*kept, *((name.encode(), value.encode()) for name, value in added.items())]


def _pairs(carrier: Any) -> Iterator[tuple[Any, Any]]:
    for pair in carrier.items() if isinstance(carrier, Mapping) else carrier:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise _unknown(carrier)
        yield pair[0], pair[1]


def _is(name: Any, header: str) -> bool:
    if isinstance(name, bytes):
        return name.lower() == header.encode()
    return isinstance(name, str) and name.lower() == header


def _sound(found: list[Any]) -> str | None:
    """Return the one token there is, when it looks like one: nothing else is worth asking a plane about."""
    if not found:
        return None
    if len(found) > 1:
        raise CorrelationRefused("malformed", "there is more than one")
    token = found[0].decode("latin-1") if isinstance(found[0], bytes) else found[0]
    if not isinstance(token, str) or not 0 < len(token) <= LONGEST or not _ALPHABET.issuperset(token):
        raise CorrelationRefused("malformed", "it is not a correlation token")
    return token


def _unknown(carrier: Any) -> TapPassConfigError:
    return TapPassConfigError(
        f"a {type(carrier).__name__} carries no correlation token; use headers (a mapping, or pairs of name and "
        "value), os.environ, or a message that has metadata"
    )


def _traceparent() -> str:
    """Return the W3C trace context of the active span, "" where nobody traces; OpenTelemetry is never imported here."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None or not hasattr(trace, "get_current_span"):
        return ""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
