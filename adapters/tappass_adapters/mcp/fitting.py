"""Arguments as the tool gets them: they fit its schema as they are, and its defaults are among them.

Servers turn what almost fits into what does: "true" into true, '["a"]' into a list. A rule would have read the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tappass.errors import TapPassConfigError
from tappass.ext import missing, printable


def fitted(name: str, schema: Mapping[str, Any], arguments: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Return the arguments with the schema's defaults for what is left out, and the names that stay left out.

    Those are of defaults that do not fit the schema themselves, as in `def find(kind: str = None)`: rules read them,
    but the tool takes them only from itself.

    Raises:
        TapPassConfigError: they do not fit as they are, or what they mean to the tool is not what they say.
    """
    properties = schema.get("properties")
    known: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
    filled = {
        key: rule["default"]
        for key, rule in known.items()
        if key not in arguments and isinstance(rule, Mapping) and "default" in rule
    }
    for key, value in arguments.items():
        if isinstance(value, str) and _may_be_misread(value, known.get(key)):
            raise TapPassConfigError(
                f"`{printable(name)}` was not run: argument `{printable(key)}` is text that holds JSON, which the tool "
                "may read as something else than a rule does; send the JSON itself"
            )
    own, problem = _examined(schema, known, filled, arguments)
    if problem:
        raise TapPassConfigError(f"`{printable(name)}` was not run: its arguments do not fit its schema ({problem})")
    return filled | arguments, own


def _may_be_misread(text: str, rule: Any) -> bool:
    """Tell whether a server may read a text as the JSON it holds; of an optional text it could take `null` alone."""
    kinds = _kinds(rule)
    if kinds == {"string"}:
        return False
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if kinds == {"string", "null"}:
        return read is None
    return not isinstance(read, str | int | float) or isinstance(read, bool)


def _kinds(rule: Any) -> set[Any]:
    """Return the types that a schema allows, as far as it says so in the way that servers list an optional text."""
    if not isinstance(rule, Mapping):
        return set()
    if isinstance(variants := rule.get("anyOf"), list):
        return set().union(*(_kinds(variant) or {""} for variant in variants))
    kind = rule.get("type", "")
    return set(map(str, kind)) if isinstance(kind, list) else {kind if isinstance(kind, str) else ""}


def _examined(
    schema: Mapping[str, Any], known: Mapping[str, Any], filled: dict[str, Any], arguments: dict[str, Any]
) -> tuple[set[str], str]:
    """Return which defaults do not fit, and where the rest does not, "" if it does; never what stands there."""
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
        judge = kind(schema, registry=Registry())
        own = {key for key, value in filled.items() if not judge.evolve(schema=known[key]).is_valid(value)}
        rest = {key: value for key, value in filled.items() if key not in own} | arguments
        first = next(judge.iter_errors(rest), None)
    except (exceptions.SchemaError, Unresolvable, RecursionError):
        return set(), "the schema is none"
    if first is None:
        return own, ""
    where = "/".join(printable(str(step)) for step in first.absolute_path) or "the arguments"
    return own, f"`{first.validator}` at {where}"
