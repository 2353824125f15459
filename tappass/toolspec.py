"""A governed tool: its name, its definition, and how its calls become actions."""

from __future__ import annotations

import functools
import inspect
import typing
import weakref
from collections.abc import Callable
from typing import Any

import msgspec

from tappass import forking
from tappass.enforcement.action import Call, project_arguments
from tappass.enforcement.projection import Encoders
from tappass.enforcement.signature import CallSignature
from tappass.errors import TapPassConfigError
from tappass.session.session import Options, Session
from tappass.wire.codec import canonical
from tappass.wire.decisions import Action, ToolDefinition

MARK = "__tappass__"


def is_function(target: object) -> bool:
    """Tell whether a callable has no other way in than being called."""
    return inspect.isroutine(target) or isinstance(target, functools._lru_cache_wrapper)


class ToolSpec:
    """What is known of one governed tool; `url` and `api_key` name its plane if it insists on one."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        signature: CallSignature,
        *,
        encoders: Encoders,
        options: Options,
        url: str | None = None,
        api_key: str | None = None,
        server: str = "",
        min_tier: str = "",
    ) -> None:
        self.name = name
        self.function = function
        self.signature = signature
        self.encoders = encoders
        self.options = options
        self.url = url
        self.api_key = api_key
        self.server = server
        self.min_tier = min_tier
        self._definition: ToolDefinition | None = None
        self._digest = ""
        self._governed: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def covers(self, function: object) -> bool:
        """Tell whether this very callable is governed by this spec, rather than merely copied its attributes."""
        return self._governed.get(id(function)) is function

    def cover(self, function: Any) -> None:
        """Note a callable that this spec governs."""
        self._governed[id(function)] = function

    def definition(self) -> ToolDefinition:
        """Return the tool's whole definition, read from its source once."""
        if self._definition is None:
            self._definition = definition_of(self)
            self._digest = sha256(canonical(self._definition))
        return self._definition

    def call(self, session: Session, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Return the call of this tool with these arguments.

        Raises:
            TypeError: the arguments do not fit the signature.
            TapPassConfigError: an argument cannot be shown to policy.
        """
        try:
            originals = self.signature.bind(args, kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}() {error}") from None
        try:
            arguments, types = project_arguments(self.name, originals, self.encoders)
        except TapPassConfigError as error:
            session.let_stand(error)
            raise
        definition = self._definition or self.definition()
        action = Action(
            kind="tool",
            name=self.name,
            arguments=arguments,
            types=types,
            server=self.server,
            definition_digest=self._digest,
        )
        return Call(
            action,
            session,
            self.function,
            args,
            kwargs,
            originals=originals,
            rebind=lambda changed: self.signature.rebind(args, kwargs, changed),
            definition=definition,
            raise_on_redaction=self.options.raise_on_redaction,
            respect_breakglass=self.options.respect_breakglass,
            on_approval=self.options.on_approval,
            approval_timeout_s=self.options.approval_timeout_s,
        )


_names: dict[str, tuple[str, weakref.ref[Any]]] = {}
_names_lock = forking.Lock()


def claim(spec: ToolSpec) -> ToolSpec:
    """Register a tool's name for this process.

    The same function defined again (a reloaded module, a notebook cell) takes its name over.

    Raises:
        TapPassConfigError: another living function has that name, so a rule for it would mean both.
    """
    origin = f"{getattr(spec.function, '__module__', None)}.{getattr(spec.function, '__qualname__', spec.name)}"
    with _names_lock:
        other, owner = _names.get(spec.name, ("", None))
        if owner is not None and other != origin and owner() is not None:
            raise TapPassConfigError(
                f"two tools are called `{spec.name}`: {other} and {origin}; a rule for one would rule both; "
                f'give one another name: @tool(name="...")'
            )
        _names[spec.name] = (origin, weakref.ref(spec))
    return spec


def is_claimed(name: str) -> bool:
    """Tell whether a governed function of this process goes by that name."""
    _, owner = _names.get(name, ("", None))
    return owner is not None and owner() is not None


def release_names() -> None:
    """Forget all names; between tests."""
    with _names_lock:
        _names.clear()


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes in hex."""
    import hashlib

    return hashlib.sha256(data).hexdigest()


def definition_of(spec: ToolSpec) -> ToolDefinition:
    """Return a Python tool's whole definition: its source counts, not its bytecode."""
    function = inspect.unwrap(spec.function)
    return ToolDefinition(
        name=spec.name,
        description=inspect.getdoc(spec.function) or "",
        parameters=_schema(spec),
        arguments=spec.signature.names,
        open_arguments=spec.signature.is_open,
        source_digest=source_digest(function),
        package=(getattr(function, "__module__", None) or "").partition(".")[0],
        server=spec.server,
        min_tier=spec.min_tier,
    )


_sources: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def source_digest(function: Any) -> str:
    """Return the SHA-256 of a function's source in hex, "" if it has none: built in, or typed at a prompt.

    Read once a function: what runs is what was loaded, whatever its file has become since.
    """
    try:
        function = inspect.unwrap(function)
        if (known := _sources.get(function)) is None:
            known = _sources[function] = sha256(inspect.getsource(function).encode())
    except (OSError, TypeError):
        return ""
    return known


def _schema(spec: ToolSpec) -> dict[str, Any]:
    """Return a JSON schema of the parameters; a hint that has none allows anything."""
    try:
        hints = typing.get_type_hints(inspect.unwrap(spec.function))
    except Exception:
        hints = {}
    parameters = spec.signature.full.parameters
    properties = {name: _property(hints.get(name)) for name in spec.signature.names}
    plain = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [n for n in spec.signature.names if parameters[n].default is inspect.Parameter.empty]
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in required if parameters[name].kind not in plain],
    }


def _property(hint: Any) -> dict[str, Any]:
    if hint is None:
        return {}
    try:
        return msgspec.json.schema(hint)
    except Exception:
        return {}
