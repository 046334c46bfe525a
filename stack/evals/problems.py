"""Collects every mistake of a suite with its line, so that one run reports them all.

Knows nothing of what a suite may contain; `cases` decides that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce

from stack.core import strict_yaml
from stack.core.errors import InvalidInput

Path = tuple[str | int, ...]


class SuiteError(InvalidInput):
    """The suite {file} has {count} mistake(s): {summary}."""

    hint = "Correct the lines named; every mistake found is listed. Nothing was sent to any model."


@dataclass(frozen=True, kw_only=True)
class Problem(strict_yaml.Problem):
    """One mistake, and in which file."""

    file: str

    def to_json(self) -> dict[str, int | str]:
        """As it stands in the facts of an error."""
        return {"file": self.file, **super().to_json()}


@dataclass(kw_only=True)
class Problems:
    """The mistakes found so far in one file; `lines` maps a value's path to its line."""

    file: str
    lines: dict[Path, int] = field(default_factory=dict)
    found: list[Problem] = field(default_factory=list)

    def add(self, path: Path, problem: str) -> None:
        """Note a mistake at `path` (or at the nearest place above it that has a line)."""
        self.found.append(Problem(file=self.file, line=self.line(path), path=dotted(path), problem=problem))

    def take(self, problems: Iterable[strict_yaml.Problem]) -> None:
        """Note what was found while the file was read."""
        self.found.extend(Problem(file=self.file, line=p.line, path=p.path, problem=p.problem) for p in problems)

    def line(self, path: Path) -> int:
        """The line of the value at `path`."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def raise_if_any(self) -> None:
        """Raise `SuiteError` with everything found; quiet when nothing was."""
        if not self.found:
            return
        ordered = sorted(self.found, key=lambda p: (p.file, p.line, p.path))
        errors = [problem.to_json() for problem in ordered]
        raise SuiteError(file=self.file, count=len(errors), summary="; ".join(map(str, ordered)), errors=errors)


def dotted(path: Path) -> str:
    """`("tests", 3, "assert")` as `tests[3].assert`."""
    return reduce(strict_yaml.at, path, "")
