"""Copies of the checkout: an empty one for the story, and one that serves the first release for everything else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from checkout import Checkout, copy_to, free_ports


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """Nothing was ever deployed here."""
    checkout = copy_to(tmp_path_factory.mktemp("story") / "inference-stack", free_ports())
    yield checkout
    checkout.end()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """tiny@1.0 is deployed and serves. pip's cache is its own, so what is built here is really built."""
    root = tmp_path_factory.mktemp("served")
    checkout = copy_to(root / "inference-stack", free_ports(), PIP_CACHE_DIR=str(root / "pip-cache"))
    desired = checkout.root / "stack.yaml"
    patient, places = re.subn(r"place_s: \d+", "place_s: 3000", desired.read_text(encoding="utf-8"))
    assert places == 1  # a build from source on a busy machine is given its time
    desired.write_text(patient, encoding="utf-8")
    try:
        done = checkout.make("deploy")
        assert done.code == 0, done.text
        yield checkout
    finally:
        checkout.end()
