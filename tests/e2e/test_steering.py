"""A rollout that is under way: another may not begin, and it can be stopped; traffic never leaves stable."""

from __future__ import annotations

from typing import Any

import pytest
from checkout import Checkout, Done

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def before(served: Checkout) -> Json:
    return served.service()


@pytest.fixture(scope="module")
def begun(served: Checkout, before: Json) -> str:
    """A better model's rollout, not waited for."""
    return str(served.asked("deploy", "--model", "models/tiny-1.1.yaml", "--no-wait")["rollout"])


@pytest.fixture(scope="module")
def second(served: Checkout, begun: str) -> Done:
    """Another one, at once."""
    return served.stackctl("deploy", "--model", "models/tiny-1.2.yaml", "--no-wait")


@pytest.fixture(scope="module")
def aborted(served: Checkout, begun: str, second: Done) -> Done:
    """The first one, stopped by hand."""
    return served.stackctl("rollout", "abort", begun)


def test_a_second_rollout_of_the_service_is_a_conflict(second: Done) -> None:
    assert second.code == 5, second.text
    assert second.err.strip()


def test_abort_puts_everything_back(served: Checkout, before: Json, begun: str, aborted: Done) -> None:
    assert aborted.code == 0, aborted.text
    after = served.service()
    assert (after["stable"], after["candidate"], after["lkg"]) == (before["stable"], None, before["lkg"])
    assert after["weights"] == before["weights"]
    shown = served.asked("rollout", "show", begun)
    assert shown["state"] == "rolled_back"
    assert begun in [r["id"] for r in served.asked("rollout", "list")["rollouts"]]


def test_the_aborted_candidate_is_gone(served: Checkout, before: Json, aborted: Done) -> None:
    assert served.service()["replicas"] == before["replicas"]
    kept = {r["id"] for r in before["replicas"]}
    engines = [words for words in served.processes().values() if "-local-" in words and "supervis" not in words]
    assert engines
    assert not [words for words in engines if not any(replica in words for replica in kept)]


def test_a_rollout_that_has_ended_can_not_be_steered(served: Checkout, begun: str, aborted: Done) -> None:
    assert served.stackctl("rollout", "abort", begun).code == 5
    assert served.stackctl("rollout", "resume", begun).code == 5
