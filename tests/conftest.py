"""The order of the whole run: what is quick and fails soonest first, the build from source last. No test has to be
quick: Hypothesis has no deadlines here."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

_LATE = ("faults", "hosts", "training", "e2e", "compiler")


def _lateness(item: pytest.Item) -> int:
    return max((rank for rank, name in enumerate(_LATE, start=1) if item.get_closest_marker(name)), default=0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stable: within one rank, tests stay in the order of their files."""
    items.sort(key=_lateness)
