"""A checked CEL expression as a tree: which facts and which arguments it reads, and which names it tests for.

Reads the bytes of `cel.expr.CheckedExpr` (google/cel-spec, proto/cel/expr/checked.proto and syntax.proto), since the
library gives nothing else out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

_Field: TypeAlias = tuple[int, int | bytes]

# Field numbers of cel.expr.Expr.
_ID, _CONST, _IDENT, _SELECT, _CALL, _LIST, _STRUCT, _COMPREHENSION = 2, 3, 4, 5, 6, 7, 8, 9
_STRING = 6


@dataclass(slots=True)
class Reads:
    """What an expression reads.

    Attributes:
        facts: names of facts, as `agent.tier` or `args`.
        arguments: argument names read as `args.x` or `args["x"]`, with the offset of the first such place.
        tested: argument names that `has(args.x)`, `"x" in args` or `args.?x` ask for.
        open: whether `args` is read in any other way, as by `args[name]` or `args.exists(...)`.
        patterns: literal patterns given to `matches`, with their offsets.
        finding_fields: fields read from items of `findings`, with their offsets.
    """

    facts: set[str] = field(default_factory=set)
    arguments: dict[str, int] = field(default_factory=dict)
    tested: dict[str, int] = field(default_factory=dict)
    open: bool = False
    patterns: list[tuple[str, int]] = field(default_factory=list)
    finding_fields: list[tuple[str, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Node:
    """One node: `kind` is const, ident, select, has, call, list, struct or comprehension."""

    id: int
    kind: str
    name: str = ""
    children: tuple[Node, ...] = ()
    variables: tuple[str, ...] = ()


def reads(serialized: bytes) -> Reads:
    """Return what a checked expression reads."""
    checked: bytes = _one(serialized, 2)
    positions = {_int(entry, 1): _int(entry, 2) for entry in _all(_one(checked, 5), 4)}
    out = Reads()
    _walk(_node(_one(checked, 4)), frozenset(), frozenset(), positions, out)
    return out


def _walk(node: Node, bound: frozenset[str], finding: frozenset[str], at: dict[int, int], out: Reads) -> None:
    """Note what a node reads; `bound` are variables of comprehensions around it, `finding` those that are findings."""
    if node.kind == "ident":
        if node.name not in bound:
            out.facts.add(node.name)
            out.open |= node.name == "args"
        return
    if (argument := _argument(node, bound)) is not None:
        out.facts.add("args")
        kept = out.tested if node.kind == "has" or node.name in ("@in", "_?._", "_[?_]") else out.arguments
        kept.setdefault(argument, at.get(node.id, 0))
        return
    if node.kind in ("select", "has") and _is_finding(node.children[0], bound, finding):
        out.finding_fields.append((node.name, at.get(node.id, 0)))
    if node.kind == "call" and node.name == "matches" and node.children[-1].kind == "const":
        out.patterns.append((node.children[-1].name, at.get(node.children[-1].id, 0)))
    if node.kind == "comprehension":
        _walk(node.children[0], bound, finding, at, out)
        inner = node.variables[:1] if _are_findings(node.children[0], bound) else ()
        finding = (finding - set(node.variables)) | set(inner)
        bound = bound | set(node.variables)
    for child in node.children[node.kind == "comprehension" :]:
        _walk(child, bound, finding, at, out)


def _argument(node: Node, bound: frozenset[str]) -> str | None:
    """Return the argument that a node reads or tests for by a literal name."""
    if "args" in bound:
        return None
    of_args = [child for child in node.children if child.kind == "ident" and child.name == "args"]
    if not of_args:
        return None
    if node.kind in ("select", "has"):
        return node.name
    literal = [child.name for child in node.children if child.kind == "const" and child.name]
    if node.kind == "call" and node.name in ("_[_]", "@in", "_?._", "_[?_]") and literal:
        return literal[0]
    return None


def _are_findings(node: Node, bound: frozenset[str]) -> bool:
    if node.kind == "ident":
        return node.name == "findings" and node.name not in bound
    # What `filter` leaves are findings still.
    return node.kind == "comprehension" and node.name == "list" and _are_findings(node.children[0], bound)


def _is_finding(node: Node, bound: frozenset[str], finding: frozenset[str]) -> bool:
    if node.kind == "ident":
        return node.name in finding
    return node.kind == "call" and node.name == "_[_]" and _are_findings(node.children[0], bound)


def _node(body: bytes) -> Node:
    number = _int(body, _ID)
    for tag, value in _fields(body):
        if isinstance(value, bytes) and tag in _READERS:
            kind, name, children, variables = _READERS[tag](value)
            return Node(number, kind, name, tuple(map(_node, children)), variables)
    return Node(number, "const")


_Parts: TypeAlias = tuple[str, str, list[bytes], tuple[str, ...]]


def _const(body: bytes) -> _Parts:
    return "const", _text(body, _STRING), [], ()


def _ident(body: bytes) -> _Parts:
    return "ident", _text(body, 1), [], ()


def _select(body: bytes) -> _Parts:
    return "has" if _int(body, 3) else "select", _text(body, 2), [_one(body, 1)], ()


def _call(body: bytes) -> _Parts:
    return "call", _text(body, 2), [*_all(body, 1), *_all(body, 3)], ()


def _list(body: bytes) -> _Parts:
    return "list", "", list(_all(body, 1)), ()


def _struct(body: bytes) -> _Parts:
    entries = list(_all(body, 2))
    return "struct", "", [part for entry in entries for tag in (3, 4) for part in _all(entry, tag)], ()


def _comprehension(body: bytes) -> _Parts:
    # iter_range first: it alone does not see the variables.
    parts = [part for tag in (2, 4, 5, 6, 7) for part in _all(body, tag)]
    starts_as_list = any(tag == _LIST for tag, _ in _fields(_one(body, 4)))
    variables = tuple(name for tag in (1, 8, 3) if (name := _text(body, tag)))
    # `map` starts with a list too; what it makes of findings are not findings, unless the step appends them whole.
    return "comprehension", "list" if starts_as_list and _appends_whole(body) else "", parts, variables


def _appends_whole(body: bytes) -> bool:
    variable = _text(body, 1).encode()
    return bytes([10, len(variable)]) + variable in _one(body, 6) and b"_?_:_" in _one(body, 6)


_READERS = {
    _CONST: _const,
    _IDENT: _ident,
    _SELECT: _select,
    _CALL: _call,
    _LIST: _list,
    _STRUCT: _struct,
    _COMPREHENSION: _comprehension,
}


def _fields(body: bytes) -> Iterator[_Field]:
    """Yield number and value of each field of a protobuf message (encoding: protobuf.dev, wire types 0, 1, 2, 5)."""
    at = 0
    while at < len(body):
        key, at = _varint(body, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(body, at)
            yield key >> 3, value
            continue
        size, at = _varint(body, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
        yield key >> 3, body[at : at + size]
        at += size


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _all(body: bytes, number: int) -> Iterator[bytes]:
    return (value for tag, value in _fields(body) if tag == number and isinstance(value, bytes))


def _one(body: bytes, number: int) -> bytes:
    return next(_all(body, number), b"")


def _text(body: bytes, number: int) -> str:
    return _one(body, number).decode("utf-8", "replace")


def _int(body: bytes, number: int) -> int:
    return next((value for tag, value in _fields(body) if tag == number and isinstance(value, int)), 0)
