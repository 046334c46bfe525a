"""The order of the whole run: what is quick and fails soonest first, the build from source last."""

from __future__ import annotations

import pytest

_LATE = ("faults", "hosts", "training", "e2e", "compiler")


def _lateness(item: pytest.Item) -> int:
    return max((rank for rank, name in enumerate(_LATE, start=1) if item.get_closest_marker(name)), default=0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stable: within one rank, tests stay in the order of their files."""
    items.sort(key=_lateness)
