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

from stack.core.errors import InvalidInput
from stack.core.strict_yaml import Ledger, at, kind_of, plain

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,15})?\Z", re.ASCII)


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


@dataclass(frozen=True)
class Text:
    """Text of 1 to ``longest`` characters, made into what ``form`` makes of it (a type of core.names, Path)."""

    form: Callable[[str], Any] = str
    longest: int = 200

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """Unquoted numbers and truths are refused: 1.10 is not 1.1."""
        text = ledger.text(node, path, self.longest)
        if text is None:
            return WRONG
        if not text.isprintable():
            ledger.note(node, path, f"expected 1 to {self.longest} printable characters")
            return WRONG
        try:
            return self.form(text)
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
        value = ledger.whole(node, path, self.low, self.high)
        return WRONG if value is None else value


@dataclass(frozen=True)
class Number:
    """A number from ``low`` to ``high``; never NaN or infinite."""

    low: float
    high: float

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """Decimal only, no exponent."""
        text = plain(node)
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
        items = ledger.items(node, path, self.most)
        if items is None:
            return WRONG
        read = [self.kind.read(item, at(path, number), ledger) for number, item in enumerate(items)]
        return WRONG if WRONG in read else tuple(read)


@dataclass(frozen=True)
class Section:
    """A mapping, read into a settings class."""

    cls: type[Any]

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """An instance, or WRONG if anything in it is."""
        fields = {f.metadata["key"] or f.name: f for f in dataclasses.fields(self.cls) if "kind" in f.metadata}
        required = [key for key, field in fields.items() if field.default is REQUIRED]
        before = len(ledger.problems)
        nodes = ledger.mapping(node, path, tuple(fields), required)
        sound = len(ledger.problems) == before
        values = {
            fields[key].name: fields[key].metadata["kind"].read(value, at(path, key), ledger)
            for key, value in nodes.items()
        }
        return self.cls(**values) if sound and WRONG not in values.values() else WRONG
