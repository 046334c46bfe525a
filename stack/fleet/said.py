"""What a host says, read as words of a stranger: text without control characters and of bounded length, and an
observation whose every field has the type that it should have. Pure.

A host may say what it likes of itself; nothing that it says is a template, a terminal's command or a reason to crash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

LONGEST_LINE, MOST_LINES = 500, 20
_MOST_REPLICAS = 1000
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")


class NotAnObservation(ValueError):
    """What is wrong with it."""


def plain(text: str, lines: int = MOST_LINES) -> str:
    """The last lines, printable: what would move a cursor, colour a terminal or hide other text becomes ``?``."""
    return "\n".join(_line(line) for line in text.splitlines()[-lines:])


def _line(line: str) -> str:
    shown = "".join(c if c.isprintable() else " " if c == "\t" else "?" for c in line[: LONGEST_LINE + 1])
    return shown if len(shown) <= LONGEST_LINE else shown[:LONGEST_LINE] + " ..."


def plain_lines(lines: Iterable[object]) -> tuple[str, ...]:
    """The same for lines of their own."""
    return tuple(plain(str(line), 1) for line in list(lines)[:MOST_LINES])


def _optional(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _word(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 128 and value.isprintable()


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and bool(pattern.match(value))


_ROW: Mapping[str, Callable[[Any], bool]] = {
    "id": _matches(_NAME),
    "state": _word,
    "pid": _optional(_count),
    "port": _optional(_count),
    "artifact_digest": _optional(_matches(_DIGEST)),
    "release_digest": _optional(_matches(_DIGEST)),
    "started_at": _optional(lambda value: _word(value) or (isinstance(value, int | float) and value - value == 0)),
    "restarts": _count,
    "memory_bytes": _optional(_count),
    "accelerator_bytes": _optional(_count),
}
_PUBLIC: Mapping[str, Callable[[Any], bool]] = {
    "replicas": lambda value: isinstance(value, list) and len(value) <= _MOST_REPLICAS,
    "epoch": _count,
    "operation": lambda value: isinstance(value, dict),
    "service_manager": _word,
    "supervised": lambda value: isinstance(value, bool),
    "facts": lambda value: isinstance(value, dict),
}


def observation(said: object) -> dict[str, Any]:
    """The part of it that callers are shown. Raises NotAnObservation for anything that no tool of ours would say."""
    if not isinstance(said, Mapping):
        raise NotAnObservation(f"it is no object but {type(said).__name__}")
    wrong = [key for key, check in _PUBLIC.items() if key in said and not check(said[key])]
    rows = said.get("replicas", []) if not wrong else []
    wrong += [f"replicas[{number}]" for number, row in enumerate(rows) if not _is_row(row)]
    if wrong:
        raise NotAnObservation(f"{', '.join(wrong[:5])} can't be that")
    return {key: said[key] for key in _PUBLIC if key in said}


def _is_row(row: object) -> bool:
    return isinstance(row, dict) and "id" in row and all(key in _ROW and _ROW[key](row[key]) for key in row)


def step_state(observed: Mapping[str, Any], step: str) -> str:
    """How the fence on the host recorded a step of the operation that it was asked about; empty if it did not."""
    found: object = observed.get("operation")
    for key in ("steps", step, "state"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) else ""
