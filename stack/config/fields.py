"""From YAML nodes to frozen dataclasses whose fields say how they are read.

A settings class declares each field by ``setting(kind, default)``; ``read`` walks the class and notes every mistake in
the ledger: unknown and repeated keys, wrong types, values out of range, what is missing. It never raises for bad input.
YAML 1.1's surprises are not taken over: ``off`` is a word where a word is asked, 010, 1_0 and 1:20 are no numbers.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import yaml

from stack.config.source import Ledger
from stack.core.errors import InvalidInput

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,15})\Z", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,15})?\Z", re.ASCII)
_TRUTH = {"true": True, "false": False}


class Wrong:
    """What a kind returns for a value it has noted as wrong."""


WRONG: Final = Wrong()
REQUIRED: Final = dataclasses.MISSING


class Kind(Protocol):
    """How one value is read."""

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """The value, or WRONG after a note in the ledger."""


def setting(kind: Kind, default: Any = REQUIRED, *, key: str = "") -> Any:
    """A dataclass field read as ``kind``; ``key`` is its name in YAML where that differs; no default: required."""
    metadata = {"kind": kind, "key": key}
    if isinstance(default, (dict, list)):
        raise TypeError("defaults are frozen values")
    return dataclasses.field(default=default, metadata=metadata)


def kind_of(node: yaml.Node) -> str:
    """What stands there, in words."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if node.tag.endswith(":null"):
        return "nothing"
    return repr(node.value[:60])


def _plain(node: yaml.Node) -> str | None:
    """The text of an unquoted scalar."""
    return node.value if isinstance(node, yaml.ScalarNode) and node.style is None else None


@dataclass(frozen=True)
class Text:
    """Text of 1 to ``longest`` characters, made into what ``form`` makes of it (a type of core.names, Path)."""

    form: Callable[[str], Any] = str
    longest: int = 200

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """Unquoted numbers and truths are refused: 1.10 is not 1.1."""
        if not isinstance(node, yaml.ScalarNode) or not node.tag.endswith(":str"):
            quotes = "; put it in quotes" if isinstance(node, yaml.ScalarNode) and node.value else ""
            ledger.note(node, path, f"expected text, found {kind_of(node)}{quotes}")
            return WRONG
        if not 1 <= len(node.value) <= self.longest or not node.value.isprintable():
            ledger.note(node, path, f"expected 1 to {self.longest} printable characters")
            return WRONG
        try:
            return self.form(node.value)
        except InvalidInput as error:
            ledger.note(node, path, error.message)
        except ValueError as error:
            ledger.note(node, path, str(error))
        return WRONG


@dataclass(frozen=True)
class OneOf:
    """One word of a closed set."""

    words: Sequence[str]

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """The word as written, whatever YAML takes it for."""
        if isinstance(node, yaml.ScalarNode) and node.value in self.words:
            return node.value
        ledger.note(node, path, f"expected one of {', '.join(self.words)}; found {kind_of(node)}")
        return WRONG


@dataclass(frozen=True)
class Whole:
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """Decimal only."""
        text = _plain(node)
        if text is not None and _WHOLE.match(text) and self.low <= int(text) <= self.high:
            return int(text)
        ledger.note(node, path, f"expected a whole number from {self.low} to {self.high}, found {kind_of(node)}")
        return WRONG


@dataclass(frozen=True)
class Number:
    """A number from ``low`` to ``high``; never NaN or infinite."""

    low: float
    high: float

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """Decimal only, no exponent."""
        text = _plain(node)
        if text is not None and _NUMBER.match(text) and math.isfinite(float(text)):
            value = float(text)
            if self.low <= value <= self.high:
                return value
        ledger.note(node, path, f"expected a number from {self.low:g} to {self.high:g}, found {kind_of(node)}")
        return WRONG


@dataclass(frozen=True)
class ListOf:
    """A list of 1 to ``most`` values of one kind, as a tuple."""

    kind: Kind
    most: int

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """WRONG if any of its values is; all of them are read."""
        if not isinstance(node, yaml.SequenceNode) or not 1 <= len(node.value) <= self.most:
            found = f"{len(node.value)}" if isinstance(node, yaml.SequenceNode) else kind_of(node)
            ledger.note(node, path, f"expected a list of 1 to {self.most}, found {found}")
            return WRONG
        read = [self.kind.read(item, f"{path}[{number}]", ledger) for number, item in enumerate(node.value)]
        return WRONG if WRONG in read else tuple(read)


@dataclass(frozen=True)
class Section:
    """A mapping, read into a settings class."""

    cls: type[Any]

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """An instance, or WRONG if anything in it is."""
        if not isinstance(node, yaml.MappingNode):
            ledger.note(node, path, f"expected a mapping, found {kind_of(node)}")
            return WRONG
        fields = {f.metadata["key"] or f.name: f for f in dataclasses.fields(self.cls) if "kind" in f.metadata}
        nodes, sound = _entries(node, path, tuple(fields), ledger)
        values: dict[str, Any] = {}
        for key, field in fields.items():
            if key in nodes:
                values[field.name] = field.metadata["kind"].read(nodes[key], _at(path, key), ledger)
            elif field.default is REQUIRED:
                ledger.note(node, _at(path, key), "missing")
                values[field.name] = WRONG
        return self.cls(**values) if sound and WRONG not in values.values() else WRONG


def _at(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _entries(
    node: yaml.MappingNode, path: str, known: Sequence[str], ledger: Ledger
) -> tuple[dict[str, yaml.Node], bool]:
    """The known keys with their values, and whether there was nothing else."""
    before = len(ledger.problems)
    found: dict[str, yaml.Node] = {}
    seen: set[str] = set()
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else kind_of(key)
        place = _at(path, name[:60])
        if name in seen:
            ledger.note(key, place, "given twice")
        elif name not in known:
            ledger.note(key, place, f"unknown key; known here: {', '.join(known)}")
        else:
            found[name] = value
        seen.add(name)
    return found, len(ledger.problems) == before
