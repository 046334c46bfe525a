"""Tests of upgrades: what the release before left behind, and how it ended here, counted per phase at the end."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "faults"))  # the stack in this process over a stand-in host

ENDS: pytest.StashKey[Counter[tuple[str, str, str]]] = pytest.StashKey()


@pytest.fixture
def ended(request: pytest.FixtureRequest) -> Callable[[str, str, str], None]:
    """Count: how it was driven, the phase in which it was found, how it ended."""

    def count(how: str, phase: str, end: str) -> None:
        request.config.stash.setdefault(ENDS, Counter())[how, phase, end] += 1

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = terminalreporter.config.stash.get(ENDS, None)
    if counts:
        terminalreporter.section("rollouts of the release before")
        for (how, phase, end), number in sorted(counts.items()):
            terminalreporter.line(f"{how:28} {phase:11} -> {end:12} {number}")
        terminalreporter.line(f"{sum(counts.values())} in all")
