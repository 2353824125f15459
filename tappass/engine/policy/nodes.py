"""YAML read strictly: each value with its place, each problem noted, nothing guessed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import yaml

from tappass.engine.policy.problems import Problem, choices, meant
from tappass.engine.policy.scalars import Scalar

MAX_BYTES = 4_000_000
MAX_DEPTH = 24
_PLAIN = "tag:yaml.org,2002:"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAGS = frozenset({"map", "seq", "str", "int", "float", "bool", "null", "timestamp", "value"})
_CONSTRUCTOR = yaml.constructor.SafeConstructor()
_NAMES = {
    "map": "a mapping",
    "seq": "a list",
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "true/false",
}


class Reader:
    """One YAML file: gives out typed values, and notes what is wrong where.

    Args:
        name: what messages call the file.
        body: its bytes.
    """

    def __init__(self, name: str, body: bytes) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self._lines: list[str] = []
        self.root = self._compose(body)

    def note(self, node: yaml.Node | None, text: str) -> None:
        """Note a problem at a node; None: at the file's beginning."""
        line, column = (node.start_mark.line + 1, node.start_mark.column + 1) if node is not None else (1, 1)
        self.problems.append(Problem(self.name, line, column, text))

    def source(self, node: yaml.Node) -> str:
        """Return a node's place as a rule's source names it: `policy.yaml:8`."""
        return f"{self.name}:{node.start_mark.line + 1}"

    def _compose(self, body: bytes) -> yaml.Node | None:
        if len(body) > MAX_BYTES:
            self.note(None, f"the file is larger than {MAX_BYTES:,} bytes")
            return None
        try:
            text = body.decode("utf-8-sig")
            self._lines = text.split("\n")
            root: yaml.Node | None = yaml.compose(text, Loader=_LOADER)
        except UnicodeDecodeError:
            self.note(None, "the file is not UTF-8 text")
        except RecursionError:
            self.note(None, "the file is nested too deeply")
        except yaml.YAMLError as error:
            self._note_syntax(error)
        else:
            return root if root is not None and self._sound(root) else None
        return None

    def _note_syntax(self, error: yaml.YAMLError) -> None:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        said = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        self.problems.append(Problem(self.name, line, column, f"not valid YAML: {said}"))

    def _sound(self, root: yaml.Node) -> bool:
        """Refuse aliases, which can make a small file huge or endless, odd tags, and doubled keys."""
        before, seen = len(self.problems), {id(root)}
        waiting = [(root, 1)]
        while waiting:
            node, depth = waiting.pop()
            if node.tag.removeprefix(_PLAIN) not in _TAGS:
                self.note(
                    node,
                    f"tags and merge keys (`!`, `<<`) are not accepted, as here `{node.tag.removeprefix(_PLAIN)[:40]}`",
                )
            if depth > MAX_DEPTH:
                self.note(node, "the file is nested too deeply")
                break
            for child in self._children(node):
                if id(child) in seen:
                    self.note(child, "anchors and aliases (`&`, `*`) are not accepted; write it out, or quote a glob")
                    return False
                seen.add(id(child))
                waiting.append((child, depth + 1))
        return len(self.problems) == before

    def _children(self, node: yaml.Node) -> list[yaml.Node]:
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        if not isinstance(node, yaml.MappingNode):
            return []
        keys: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.note(key, "a key must be text")
            elif key.value in keys:
                self.note(key, f"`{key.value}` stands here twice")
            else:
                keys.add(key.value)
        return [child for pair in node.value for child in pair]

    def mapping(self, node: yaml.Node, known: Iterable[str] | None = None, *, what: str) -> dict[str, yaml.Node]:
        """Return a mapping's values by key, without the keys that are not known, which are noted."""
        if not isinstance(node, yaml.MappingNode):
            self.wrong(node, f"{what} must be a mapping")
            return {}
        names = list(known) if known is not None else None
        out = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if names is not None and key.value not in names:
                self.note(key, f"unknown key `{key.value[:60]}` in {what}; {meant(key.value, names)}")
            else:
                out[key.value] = value
        return out

    def items(self, node: yaml.Node, *, what: str) -> list[yaml.Node]:
        """Return a list's items."""
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        self.wrong(node, f"{what} must be a list")
        return []

    def text(self, node: yaml.Node, *, what: str, longest: int = 200) -> str:
        """Return text that is not empty, as it is written (`no` is text here); "" and a problem otherwise."""
        if not isinstance(node, yaml.ScalarNode) or node.tag == f"{_PLAIN}null":
            self.wrong(node, f"{what} must be text")
            return ""
        value: str = node.value.strip()
        if not value:
            self.note(node, f"{what} is empty")
        elif len(value) > longest:
            self.note(node, f"{what} is longer than {longest:,} characters")
        return value

    def choice(self, node: yaml.Node, known: Collection[str], *, what: str) -> str:
        """Return one of some words; "" and a problem otherwise."""
        if not isinstance(node, yaml.ScalarNode):
            self.wrong(node, f"{what} must be one of {choices(known)}")
            return ""
        if node.value in known:
            return str(node.value)
        self.note(node, f"unknown {what} `{node.value[:60]}`; {meant(node.value, known)}")
        return ""

    def boolean(self, node: yaml.Node, *, what: str) -> bool:
        """Return true or false."""
        if isinstance(node, yaml.ScalarNode) and node.value in ("true", "false") and node.tag == f"{_PLAIN}bool":
            return bool(node.value == "true")
        self.wrong(node, f"{what} must be true or false")
        return False

    def integer(self, node: yaml.Node, *, what: str, least: int = 1, most: int = 10**15) -> int:
        """Return a whole number within bounds; 0 and a problem otherwise."""
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{_PLAIN}int" and node.value.isascii():
            if node.value.isdecimal() and least <= int(node.value[:20]) <= most and str(int(node.value)) == node.value:
                return int(node.value)
            self.note(node, f"{what} must be a whole number from {least:,} to {most:,}")
            return 0
        self.wrong(node, f"{what} must be a whole number")
        return 0

    def value(self, node: yaml.Node) -> Any:
        """Return a value in JSON types; dates stay text, as they are written."""
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            return {key.value: self.value(value) for key, value in node.value}
        if node.tag.removeprefix(_PLAIN) not in ("null", "bool", "int", "float"):
            return node.value
        made = _CONSTRUCTOR.construct_object(node)
        if isinstance(made, float) and not math.isfinite(made):
            self.note(node, "NaN and infinity never reach policy; a call with them is refused before")
        return made

    def wrong(self, node: yaml.Node, expected: str) -> None:
        """Note that a value is of another type than expected."""
        found = node.tag.removeprefix(_PLAIN)
        self.note(node, f"{expected}, not {'empty' if found == 'null' else _NAMES.get(found, found)}")

    def scalar(self, node: yaml.ScalarNode) -> Scalar:
        """Return a scalar with the way it is written, so that a place in its value is one in the file."""
        start, end = node.start_mark, node.end_mark
        lines = self._lines[start.line : end.line + 1]
        if lines and end.line < len(self._lines):
            lines[-1] = lines[-1][: end.column] if end.line > start.line else lines[-1][start.column : end.column]
        if lines and end.line > start.line:
            lines[0] = lines[0][start.column :]
        return Scalar(node.value, self.name, start.line + 1, start.column + 1, "\n".join(lines), node.style)
