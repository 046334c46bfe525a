"""The stand-in engine of `tests/runtimes`, and suites written on the spot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "runtimes"))

from standin import StandIn, serving

from stack.evals import Suite, load_suite


@pytest.fixture
def engine() -> Iterator[StandIn]:
    """A healthy stand-in."""
    with serving(StandIn()) as standin:
        yield standin


@pytest.fixture
def suite_of(tmp_path: Path) -> Callable[[str], Suite]:
    """Loads a suite from its text."""

    def load(text: str) -> Suite:
        path = tmp_path / "suite.yaml"
        path.write_text(text)
        return load_suite(path)

    return load
