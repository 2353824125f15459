"""Arguments as the tool gets them: they fit its schema as they are, and its defaults are among them.

Servers turn what almost fits into what does: "true" into true, '["a"]' into a list. A rule would have read the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tappass.errors import TapPassConfigError
from tappass.ext import missing, printable


def fitted(name: str, schema: Mapping[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with the schema's defaults for what is left out.

    Raises:
        TapPassConfigError: they do not fit as they are, or what they mean to the tool is not what they say.
    """
    properties = schema.get("properties")
    known: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
    filled = {key: rule["default"] for key, rule in known.items() if isinstance(rule, Mapping) and "default" in rule}
    whole = filled | arguments
    for key, value in arguments.items():
        if isinstance(value, str) and not _is_text(known.get(key)) and _reads_as_json(value):
            raise TapPassConfigError(
                f"`{printable(name)}` was not run: argument `{printable(key)}` is text that holds JSON, which the tool "
                "may read as something else than a rule does; send the JSON itself"
            )
    if (problem := _problem(schema, whole)) is not None:
        raise TapPassConfigError(f"`{printable(name)}` was not run: its arguments do not fit its schema ({problem})")
    return whole


def _is_text(rule: Any) -> bool:
    return isinstance(rule, Mapping) and rule.get("type") == "string"


def _reads_as_json(text: str) -> bool:
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return not isinstance(read, str | int | float) or isinstance(read, bool)


def _problem(schema: Mapping[str, Any], arguments: dict[str, Any]) -> str | None:
    """Return where the arguments do not fit; never what stands there."""
    try:
        from jsonschema import exceptions, validators  # type: ignore[import-untyped]
        from referencing import Registry
        from referencing.exceptions import Unresolvable
    except ImportError as error:
        raise missing("mcp", "TapPassMCPMiddleware") from error

    kind = validators.validator_for(schema, default=validators.validator_for({}))
    try:
        kind.check_schema(schema)
        # An empty registry: what a schema refers to is never fetched.
        first = next(kind(schema, registry=Registry()).iter_errors(arguments), None)
    except (exceptions.SchemaError, Unresolvable, RecursionError):
        return "the schema is none"
    if first is None:
        return None
    where = "/".join(printable(str(step)) for step in first.absolute_path) or "the arguments"
    return f"`{first.validator}` at {where}"
