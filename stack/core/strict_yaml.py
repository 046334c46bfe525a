"""Strict YAML: bytes -> nodes that know their line, and the ledger of everything found wrong.

The one reader of YAML that people write. Refused outright: anchors and aliases (YAML bombs), tags, merge keys,
several documents, deep nesting, too many values, big files, text that is not UTF-8. Pure: reading the file is for the
caller, as are its keys and what their values mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import yaml

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,15})\Z", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
_MERGE = "tag:yaml.org,2002:merge"
_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a document may hold: bytes, levels of nesting, and values (keys count too)."""

    size: int
    depth: int
    values: int


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


class NotReadable(ValueError):
    """The bytes are no acceptable YAML; carries the problem."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.problem = Problem(line=line, path="", problem=reason)


def line_of(node: yaml.Node) -> int:
    """The line on which a node begins, counted from 1."""
    return int(node.start_mark.line) + 1


def at(path: str, key: str | int) -> str:
    """The place of an entry below ``path``: ``tests``, ``tests[3]``, ``tests[3].vars``."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key[:_SHOWN]}" if path else key[:_SHOWN]


def kind_of(node: yaml.Node) -> str:
    """What stands there, in words."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return repr(node.value[:_SHOWN]) if node.value or not node.tag.endswith(":null") else "nothing"


def compose(data: bytes, limits: Limits) -> yaml.Node:
    """The root node of the one document; raises NotReadable, and nothing else."""
    if len(data) > limits.size:
        raise NotReadable(1, f"larger than {limits.size} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotReadable(data[: error.start].count(b"\n") + 1, "not UTF-8 text") from error
    try:
        root = _Loader(text, limits).get_single_node()
    except yaml.reader.ReaderError as error:
        raise NotReadable(text.count("\n", 0, error.position) + 1, f"not YAML: {error.reason}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise NotReadable(line, f"not YAML: {error.problem or error.context}") from error
    if root is None:
        raise NotReadable(1, "the file is empty")
    return root


class _Loader(yaml.SafeLoader):
    """Looks at each event before it becomes a node, so that nothing refused is ever built."""

    def __init__(self, text: str, limits: Limits) -> None:
        super().__init__(text)
        self._limits = limits
        self._depth = self._documents = self._values = 0

    def get_event(self) -> yaml.Event:
        """The next event, if it is allowed."""
        event: yaml.Event = super().get_event()  # type: ignore[no-untyped-call]
        self._depth += isinstance(event, yaml.CollectionStartEvent)
        self._depth -= isinstance(event, yaml.CollectionEndEvent)
        self._documents += isinstance(event, yaml.DocumentStartEvent)
        self._values += isinstance(event, yaml.NodeEvent)
        problem = self._problem(event)
        if problem:
            raise NotReadable(event.start_mark.line + 1 if event.start_mark else 1, problem)
        return event

    def fetch_more_tokens(self) -> None:
        """PyYAML lets an escape beyond Unicode and an endless version number through as errors of Python."""
        line = self.line
        try:
            super().fetch_more_tokens()
        except (ValueError, OverflowError) as error:
            raise NotReadable(line + 1, "not YAML: a number that is out of range") from error

    def _problem(self, event: yaml.Event) -> str | None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            return "anchors (&) and aliases (*) are not allowed"
        if getattr(event, "tag", None):
            return "tags (!) are not allowed"
        if self._depth > self._limits.depth:
            return f"nested deeper than {self._limits.depth} levels"
        if self._documents > 1:
            return "only one document is allowed"
        if self._values > self._limits.values:
            return f"more than {self._limits.values} values"
        if isinstance(event, yaml.ScalarEvent) and _SURROGATE.search(event.value):
            return "half a surrogate pair is no character"
        return None


@dataclass(kw_only=True)
class Ledger:
    """Collects problems while a document is read, so that all are told at once. Readers return None after a note."""

    problems: list[Problem] = field(default_factory=list)

    def note(self, node: yaml.Node, path: str, problem: str) -> None:
        """Write down one mistake."""
        self.problems.append(Problem(line=line_of(node), path=path, problem=problem))

    def mapping(
        self, node: yaml.Node, path: str, known: Sequence[str] | None, required: Sequence[str] = ()
    ) -> dict[str, yaml.Node]:
        """The values by key; repeated, unknown and missing keys are noted (``known`` is None: any text is a key)."""
        if not isinstance(node, yaml.MappingNode):
            self.note(node, path, f"expected a mapping, found {kind_of(node)}")
            return {}
        found: dict[str, yaml.Node] = {}
        seen: set[str] = set()
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else kind_of(key)
            problem = _key_problem(key, name, seen, known)
            seen.add(name)
            if problem:
                self.note(key, at(path, name), problem)
            else:
                found[name] = value
        for name in required:
            if name not in seen:
                self.note(node, at(path, name), "missing")
        return found

    def items(self, node: yaml.Node, path: str, most: int) -> list[yaml.Node] | None:
        """The nodes of a list of 1 to ``most``."""
        if isinstance(node, yaml.SequenceNode) and 1 <= len(node.value) <= most:
            return list(node.value)
        found = f"{len(node.value)}" if isinstance(node, yaml.SequenceNode) else kind_of(node)
        self.note(node, path, f"expected a list of 1 to {most}, found {found}")
        return None

    def text(self, node: yaml.Node, path: str, longest: int) -> str | None:
        """Text of 1 to ``longest`` characters. Unquoted numbers and truths are refused: 1.10 is not 1.1."""
        if not isinstance(node, yaml.ScalarNode) or not node.tag.endswith(":str"):
            quotes = "; put it in quotes" if isinstance(node, yaml.ScalarNode) and node.value else ""
            self.note(node, path, f"expected text, found {kind_of(node)}{quotes}")
            return None
        if not 1 <= len(node.value) <= longest:
            self.note(node, path, f"expected 1 to {longest} characters, found {len(node.value)}")
            return None
        return str(node.value)

    def whole(self, node: yaml.Node, path: str, low: int, high: int) -> int | None:
        """A whole number, written in decimal without quotes: 010, 1_0 and 1:20 are none."""
        text = plain(node)
        if text is not None and _WHOLE.match(text) and low <= int(text) <= high:
            return int(text)
        self.note(node, path, f"expected a whole number from {low} to {high}, found {kind_of(node)}")
        return None


def _key_problem(key: yaml.Node, name: str, seen: set[str], known: Sequence[str] | None) -> str | None:
    if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
        return "keys must be plain text; merge keys (<<) are not supported"
    if name in seen:
        return "given twice"
    if known is not None and name not in known:
        return f"unknown key; known here: {', '.join(known)}"
    return None


def plain(node: yaml.Node) -> str | None:
    """The text of an unquoted scalar."""
    return str(node.value) if isinstance(node, yaml.ScalarNode) and node.style is None else None
