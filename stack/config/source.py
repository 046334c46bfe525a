"""Strict YAML: bytes -> one node that knows its lines, and the ledger of everything found wrong.

Refused outright: aliases and anchors (YAML bombs), tags, several documents, deep nesting, big files, text that is
not UTF-8. Which keys and values a document has is said in ``fields``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import yaml

LARGEST = 256 * 1024
DEEPEST = 12
MOST_NODES = 20_000


@dataclass(frozen=True, kw_only=True, order=True)
class Problem:
    """One mistake: its line (from 1), where it stands in the document, and what is wrong."""

    line: int
    path: str
    problem: str

    def to_json(self) -> dict[str, int | str]:
        """As it stands in the facts of an error."""
        return {"line": self.line, "path": self.path, "problem": self.problem}

    def __str__(self) -> str:
        return f"line {self.line}: {self.path + ': ' if self.path else ''}{self.problem}"


@dataclass(kw_only=True)
class Ledger:
    """Collects problems while a document is read, so that all of them are told at once."""

    problems: list[Problem] = field(default_factory=list)

    def note(self, node: yaml.Node, path: str, problem: str) -> None:
        """Write down one mistake."""
        self.problems.append(Problem(line=line_of(node), path=path, problem=problem))


class NotReadable(ValueError):
    """The bytes are no acceptable YAML; carries the problem."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.problem = Problem(line=line, path="", problem=reason)


def line_of(node: yaml.Node) -> int:
    """The line on which a node begins, counted from 1."""
    return int(node.start_mark.line) + 1


def compose(data: bytes) -> yaml.Node:
    """The root node of the one document; raises NotReadable."""
    if len(data) > LARGEST:
        raise NotReadable(1, f"larger than {LARGEST} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotReadable(data[: error.start].count(b"\n") + 1, "not UTF-8 text") from error
    try:
        _check_events(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise _not_yaml(error) from error
    if root is None:
        raise NotReadable(1, "the file is empty")
    return root


def _check_events(text: str) -> None:
    depth = documents = nodes = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise NotReadable(line, "anchors (&) and aliases (*) are not allowed")
        if getattr(event, "tag", None):
            raise NotReadable(line, "tags (!) are not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        nodes += isinstance(event, yaml.NodeEvent)
        if depth > DEEPEST:
            raise NotReadable(line, f"nested deeper than {DEEPEST} levels")
        if documents > 1:
            raise NotReadable(line, "only one document is allowed")
        if nodes > MOST_NODES:
            raise NotReadable(line, f"more than {MOST_NODES} values")


def _not_yaml(error: yaml.YAMLError) -> NotReadable:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "it can't be read"
    return NotReadable(mark.line + 1 if mark else 1, f"not YAML: {reason}")
