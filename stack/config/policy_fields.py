"""How single values of the policy files are read, beside the kinds of ``fields``. Each notes what it can't read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from stack.config.fields import WRONG, Kind
from stack.core.strict_yaml import Ledger, at, kind_of, plain

_WORD = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z", re.ASCII)
_PERSON = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}\Z", re.ASCII)
_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]\Z", re.ASCII)
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})\Z", re.ASCII)
RESERVED = ("operator", "orchestrator")
"""What the shared token and the program itself are called in records: nobody's name."""


@dataclass(frozen=True)
class Truth:
    """true or false."""

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """Only these two words: YAML's yes, on and True are refused."""
        text = plain(node)
        if text in ("true", "false"):
            return text == "true"
        ledger.note(node, path, f"expected true or false, found {kind_of(node)}")
        return WRONG


@dataclass(frozen=True)
class Many:
    """A list of up to ``most`` values as a tuple; it may be empty or nothing. ``unlike``: no two are alike in it."""

    kind: Kind
    most: int
    unlike: Callable[[Any], Any] | None = None

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """WRONG if any of its values is; all of them are read."""
        if plain(node) in ("", "~", "null") or (isinstance(node, yaml.SequenceNode) and not node.value):
            return ()
        items = ledger.items(node, path, self.most)
        if items is None:
            return WRONG
        read = [self.kind.read(item, at(path, number), ledger) for number, item in enumerate(items)]
        if self.unlike is not None and _repeats(items, read, self.unlike, path, ledger):
            return WRONG
        return WRONG if WRONG in read else tuple(read)


def _repeats(
    items: Sequence[yaml.Node], read: Sequence[Any], unlike: Callable[[Any], Any], path: str, ledger: Ledger
) -> bool:
    seen: set[Any] = set()
    before = len(ledger.problems)
    for number, (item, value) in enumerate(zip(items, read, strict=True)):
        if value is WRONG:
            continue
        if unlike(value) in seen:
            ledger.note(item, at(path, number), "stands in this list already")
        seen.add(unlike(value))
    return len(ledger.problems) > before


@dataclass(frozen=True)
class Fields:
    """A mapping of known keys, each of its own kind, as a dict of what is given."""

    kinds: Mapping[str, Kind]
    required: tuple[str, ...] = ()

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """WRONG if anything in it is; all of it is read."""
        before = len(ledger.problems)
        nodes = ledger.mapping(node, path, tuple(self.kinds), self.required)
        sound = len(ledger.problems) == before
        values = {key: self.kinds[key].read(value, at(path, key), ledger) for key, value in nodes.items()}
        return values if sound and WRONG not in values.values() else WRONG


@dataclass(frozen=True)
class Named:
    """A mapping from names that people choose to values of one kind."""

    name: Callable[[str], str]
    kind: Kind
    most: int

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """WRONG if any name or value is; all of them are read."""
        before = len(ledger.problems)
        nodes = ledger.mapping(node, path, None)
        if len(nodes) > self.most:
            ledger.note(node, path, f"expected {self.most} entries at most, found {len(nodes)}")
        for key, value in nodes.items():
            try:
                self.name(key)
            except ValueError as error:
                ledger.note(value, at(path, key), str(error))
        values = {key: self.kind.read(value, at(path, key), ledger) for key, value in nodes.items()}
        return values if len(ledger.problems) == before and WRONG not in values.values() else WRONG


@dataclass(frozen=True)
class Made:
    """What ``make`` makes of a value; the ValueErrors it raises are the value's mistakes."""

    kind: Kind
    make: Callable[[Any], Any]

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """WRONG for what can't be made."""
        value = self.kind.read(node, path, ledger)
        if value is WRONG:
            return WRONG
        try:
            return self.make(value)
        except ValueError as error:
            ledger.note(node, path, str(error))
            return WRONG


def word(text: str) -> str:
    """An environment or a role: lower case."""
    if not _WORD.match(text):
        raise ValueError(f"{text[:60]!r} is no name: use 1-32 of a-z, 0-9, '_' and '-', first a letter")
    return text


def person_name(text: str) -> str:
    """A person, as in tokens and in allowed_signers: no patterns, no lists, nothing that looks like another name."""
    if not _PERSON.match(text):
        raise ValueError(f"{text[:60]!r} is no person's name: use 1-64 of A-Z, a-z, 0-9 and . _ @ + -")
    if text.casefold() in RESERVED:
        raise ValueError(f"{text!r} is what records call the program: nobody can have this name")
    return text


def time_of_day(text: str) -> time:
    """Local time; 24:00 is the next day's 00:00."""
    if text == "24:00":
        return time(0, 0)
    if not _TIME.match(text):
        raise ValueError(f"{text[:60]!r} is no time of day: write 15:00, in quotes")
    return time.fromisoformat(text)


def moment(text: str) -> datetime:
    """A moment with its offset, in UTC."""
    try:
        if _MOMENT.match(text):
            return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{text[:60]!r} is no moment: write 2026-12-24T00:00:00Z or with +01:00, in quotes")


def timezone(text: str) -> str:
    """The name of a time zone that this machine knows."""
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError) as error:
        known = "write an IANA name such as Europe/Zurich or UTC"
        raise ValueError(f"there is no time zone {text[:60]!r}: {known}") from error
    return text
