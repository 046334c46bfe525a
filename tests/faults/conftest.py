"""Counts of the fault tests in pytest's summary, and stacks with real processes that are taken down again."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running_stack import RunningStack

_COUNTS = pytest.StashKey[list[str]]()
Count = Callable[[str], None]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(_COUNTS, [])
    if lines:
        terminalreporter.section("faults", sep="-")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Count:
    """``counted("20 kills, ...")`` puts a line into the summary of the whole run."""
    return request.config.stash.setdefault(_COUNTS, []).append


@pytest.fixture
def chance(counted: Count, request: pytest.FixtureRequest) -> random.Random:
    """Randomness with a seed that the summary shows; STACK_TEST_SEED repeats a run."""
    seed = int(os.environ.get("STACK_TEST_SEED") or random.SystemRandom().randrange(10**6))
    counted(f"{request.node.name}: STACK_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installed engines, shared by the local hosts of all stacks: the first deploy of the session installs."""
    return tmp_path_factory.mktemp("runtimes")


@pytest.fixture
def new_stack(tmp_path: Path, runtimes: Path) -> Iterator[Callable[..., RunningStack]]:
    """Makes stacks with a home and ports of their own: ``new_stack(rollout={...}, service={...})``."""
    made: list[RunningStack] = []

    def make(name: str = "s", **changes: dict[str, object]) -> RunningStack:
        made.append(RunningStack.make(tmp_path / name, runtimes, **changes))
        return made[-1]

    yield make
    for stack in made:
        stack.down()
