"""Strict YAML: bytes -> nodes that know their line, and checks that collect every mistake at once.

Refused outright: aliases and anchors (billion laughs), tags, more than one document, deep nesting, big files.
What keys and types a document has is for the caller.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

LARGEST = 4 << 20
DEEPEST = 16
_INTEGER = re.compile(r"(0|[1-9][0-9]{0,15})\Z")
_WORDS = {"str": "text", "int": "a number", "float": "a number", "bool": "true/false", "null": "nothing"}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake: its line (from 1), where it stands in the document, and what is wrong."""

    line: int
    path: str
    problem: str

    def to_json(self) -> dict[str, Any]:
        """As it stands in the facts of an error."""
        return {"line": self.line, "path": self.path, "problem": self.problem}


@dataclass(frozen=True, kw_only=True)
class Document:
    """The root node of a document, or the problem that prevented one."""

    root: yaml.Node | None
    problem: Problem | None


def line_of(node: yaml.Node) -> int:
    """The line on which a node begins, counted from 1."""
    return int(node.start_mark.line) + 1


def compose(data: bytes) -> Document:
    """The one document in ``data``; never raises for bad input."""
    try:
        if len(data) > LARGEST:
            raise _Broken(1, f"larger than {LARGEST} bytes")
        text = data.decode("utf-8")
        _check_events(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except _Broken as broken:
        return Document(root=None, problem=Problem(line=broken.line, path="", problem=broken.reason))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return Document(root=None, problem=Problem(line=line, path="", problem="not UTF-8 text"))
    except yaml.YAMLError as error:
        return Document(root=None, problem=_yaml_problem(error))
    if root is None:
        return Document(root=None, problem=Problem(line=1, path="", problem="the file is empty"))
    return Document(root=root, problem=None)


class _Broken(ValueError):
    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


def _yaml_problem(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "not readable as YAML"
    return Problem(line=mark.line + 1 if mark else 1, path="", problem=f"not YAML: {reason}")


def _check_events(text: str) -> None:
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _Broken(line, "anchors (&) and aliases (*) are not allowed")
        if getattr(event, "tag", None):
            raise _Broken(line, "tags (!) are not allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if depth > DEEPEST:
            raise _Broken(line, f"nested deeper than {DEEPEST} levels")
        if documents > 1:
            raise _Broken(line, "only one document is allowed")


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return _WORDS.get(node.tag.rsplit(":", 1)[-1], "a value of another type")


@dataclass(kw_only=True)
class Ledger:
    """Collects problems while a document is read; each reader returns None where it noted one."""

    problems: list[Problem] = field(default_factory=list)

    def note(self, node: yaml.Node, path: str, problem: str) -> None:
        """Write down one mistake."""
        self.problems.append(Problem(line=line_of(node), path=path, problem=problem))

    def mapping(
        self, node: yaml.Node, path: str, required: Iterable[str], optional: Iterable[str] = ()
    ) -> dict[str, yaml.Node]:
        """The known keys that are there; unknown, repeated and missing ones are noted."""
        if not isinstance(node, yaml.MappingNode):
            self.note(node, path, f"expected a mapping, found {_kind(node)}")
            return {}
        known = (*required, *optional)
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else _kind(key)
            place = f"{path}.{name[:80]}" if path else name[:80]
            if name in found:
                self.note(key, place, "given twice")
            elif name not in known:
                self.note(key, place, f"unknown key; known here: {', '.join(known)}")
            else:
                found[name] = value
        for name in required:
            if name not in found:
                self.note(node, f"{path}.{name}" if path else name, "missing")
        return found

    def items(self, node: yaml.Node, path: str, most: int) -> list[yaml.Node]:
        """The nodes of a list of 1 to ``most``."""
        if not isinstance(node, yaml.SequenceNode):
            self.note(node, path, f"expected a list, found {_kind(node)}")
            return []
        if not 1 <= len(node.value) <= most:
            self.note(node, path, f"expected 1 to {most} entries, found {len(node.value)}")
            return []
        return list(node.value)

    def text(self, node: yaml.Node, path: str, longest: int = 1000) -> str | None:
        """A string of 1 to ``longest`` characters."""
        if not isinstance(node, yaml.ScalarNode) or not node.tag.endswith(":str"):
            advice = ": put it in quotes" if isinstance(node, yaml.ScalarNode) and node.value else ""
            self.note(node, path, f"expected text, found {_kind(node)}{advice}")
            return None
        if not 1 <= len(node.value) <= longest:
            self.note(node, path, f"expected 1 to {longest} characters, found {len(node.value)}")
            return None
        return str(node.value)

    def integer(self, node: yaml.Node, path: str) -> int | None:
        """A decimal integer >= 0 that canonical JSON can carry."""
        if not isinstance(node, yaml.ScalarNode) or not node.tag.endswith(":int"):
            self.note(node, path, f"expected a whole number, found {_kind(node)}")
            return None
        if not _INTEGER.match(node.value) or int(node.value) > 2**53 - 1:
            self.note(node, path, f"expected a decimal number from 0 to {2**53 - 1}")
            return None
        return int(node.value)
