"""Conditions: CEL over declared facts, compiled once, and answered with true, false or the reason why neither."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import re2  # type: ignore[import-untyped]
from cel_expr_python import cel  # type: ignore[import-untyped]

from tappass import forking
from tappass.engine.policy.document import MEASURES, SCOPES
from tappass.engine.policy.problems import choices, meant
from tappass.engine.policy.syntax import Reads, reads

LONGEST = 10_000
LLM_ARGUMENTS = ("model", "prompt", "messages", "tools", "metadata", "parameters")
FINDING_FIELDS = ("kind", "category", "where", "score", "detector")

_T = cel.Type
FACTS: dict[str, Any] = {
    "args": _T.Map(_T.STRING, _T.DYN),
    "tool.name": _T.STRING,
    "tool.server": _T.STRING,
    "tool.kind": _T.STRING,
    "agent.name": _T.STRING,
    "agent.tier": _T.STRING,
    "agent.uuid": _T.STRING,
    "agent.framework": _T.STRING,
    "session.id": _T.STRING,
    "session.name": _T.STRING,
    "session.mode": _T.STRING,
    "session.metadata": _T.Map(_T.STRING, _T.DYN),
    "session.implicit": _T.BOOL,
    "now": _T.TIMESTAMP,
    "findings": _T.List(_T.Map(_T.STRING, _T.DYN)),
    **{f"budget.{scope}.{measure}": _T.DYN for scope in SCOPES for measure in MEASURES},
}
"""Facts by name. Those of a fixed shape are declared name by name, so that a misspelt one does not compile."""

_EXTENSIONS = "name: tappass\nextensions:\n- name: optional\n- name: strings\n"
_ERROR = re.compile(r"^(?:INVALID_ARGUMENT: )?ERROR: <input>:(\d+):(\d+): (.*)$", re.MULTILINE)
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")


class ConditionProblem(Exception):
    """A condition cannot be used; `places` are line, column (in its text, from 1) and what is wrong there."""

    def __init__(self, places: Iterable[tuple[int, int, str]]) -> None:
        self.places = tuple(places)
        super().__init__("; ".join(text for _, _, text in self.places))


class Condition:
    """One compiled condition; safe to share between threads."""

    __slots__ = ("_eval", "reads", "text")

    def __init__(self, text: str, expression: Any, read: Reads) -> None:
        self.text = text
        self.reads = read
        self._eval = expression.eval

    def holds(self, activation: Any) -> bool | str:
        """Return True or False, or why it is neither, without any value it read."""
        try:
            with forking.unforked:
                value = self._eval(activation).value()
        except Exception as error:
            return "it reads more items than it may" if "Iteration budget" in str(error) else "it cannot be evaluated"
        if value is True or value is False:
            return value
        return _why(str(value))


def _why(said: str) -> str:
    """Return what an error says, without the values in it: they are content."""
    if "Key not found" in said:
        return "an argument or a key that it reads is not there"
    if "No matching overloads" in said:
        return f"it compares what does not compare ({said.rpartition(':')[2].strip()[:80]})"
    if "No value with name" in said:
        return "a fact that it reads is not known here"
    if "out of range" in said or "overflow" in said:
        return "a number is too large"
    return "it cannot be evaluated, or is neither true nor false"


def activation(facts: Mapping[str, Any]) -> Any:
    """Return facts as conditions read them."""
    environment = _environment()
    with forking.unforked:
        return environment.Activation(facts)


@lru_cache(maxsize=4096)
def compiled(text: str) -> Condition:
    """Return a condition compiled and checked against the declared facts.

    Raises:
        ConditionProblem: its syntax is wrong, or a fact, a function or a type.
    """
    expression = _compile(_environment(), text)
    read = reads(expression.serialize())
    places = [*_bad_patterns(text, read), *_bad_fields(text, read)]
    if expression.return_type() not in (_T.BOOL, _T.DYN):
        places.append((1, 1, f"a condition is true or false, and this is {expression.return_type().name().lower()}"))
    if places:
        raise ConditionProblem(places)
    return Condition(text, expression, read)


def check_types(text: str, types: Mapping[str, Any]) -> tuple[tuple[int, int, str], ...]:
    """Return what is wrong with a condition if these arguments have these CEL types."""
    declared = {f"args.{name}": type_ for name, type_ in types.items()}
    try:
        _compile(_make(declared), text)
    except ConditionProblem as problem:
        return problem.places
    return ()


def place_of(text: str, offset: int) -> tuple[int, int]:
    """Return line and column, from 1, of an offset."""
    before = text[:offset]
    return before.count("\n") + 1, offset - before.rfind("\n")


@lru_cache(maxsize=1)
def _environment() -> Any:
    return _make({})


def _make(more: Mapping[str, Any]) -> Any:
    with forking.unforked:
        return cel.NewEnv(config=cel.NewEnvConfigFromYaml(_EXTENSIONS), variables=FACTS | dict(more))


def _compile(env: Any, text: str) -> Any:
    try:
        with forking.unforked:
            return env.compile(text)
    except RuntimeError as error:
        places = [(int(line), int(column), _plain(said)) for line, column, said in _ERROR.findall(str(error))]
        raise ConditionProblem(places or [(1, 1, "it is not a CEL expression")]) from None


def _plain(said: str) -> str:
    said = said.removesuffix(" [INVALID_ARGUMENT]").replace(" (in container '')", "")
    unknown = _UNDECLARED.match(said)
    if unknown is None:
        # The list of tokens that the grammar would take there helps nobody.
        return said.partition(" expecting ")[0].rstrip()
    name = unknown[1]
    if name.partition(".")[0] in {fact.partition(".")[0] for fact in FACTS} or "." in name:
        return f"unknown fact `{name}`; {meant(name, FACTS)}"
    return f"unknown name or function `{name}`; facts are {choices(sorted({f.partition('.')[0] for f in FACTS}))}"


def _bad_patterns(text: str, read: Reads) -> Iterable[tuple[int, int, str]]:
    options = re2.Options()
    options.log_errors = False
    for pattern, offset in read.patterns:
        try:
            with forking.unforked:
                re2.compile(pattern, options)
        except re2.error as error:
            yield (*place_of(text, offset), f"not a valid RE2 pattern: {_said(error)}")


def _bad_fields(text: str, read: Reads) -> Iterable[tuple[int, int, str]]:
    for name, offset in read.finding_fields:
        if name not in FINDING_FIELDS:
            yield (*place_of(text, offset), f"a finding has no `{name}`; {meant(name, FINDING_FIELDS)}")


def _said(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
