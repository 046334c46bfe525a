"""kill -9 of the control plane at random points of rollouts: each ends, nothing is done twice, nothing is lost.

STACK_TEST_KILLS sets how many kills (20); STACK_TEST_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from itertools import cycle

import pytest
from clients import PlainClients
from rollouts_under_kills import audited, done_twice, one_release_has_all_traffic, rollout_with_kills
from running_stack import RunningStack

pytestmark = [pytest.mark.faults, pytest.mark.e2e, pytest.mark.timeout(3000)]
KILLS = int(os.environ.get("STACK_TEST_KILLS") or 20)


def test_every_rollout_survives_the_death_of_the_control_plane(
    new_stack: Callable[..., RunningStack], chance: random.Random, counted: Callable[[str], None]
) -> None:
    stack = new_stack()
    stack.up()
    killed_in: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    first = rollout_with_kills(stack, "1.0", chance, killed_in, KILLS)
    ends[first["phase"]] += 1
    assert first["phase"] == "promoted", first["reason"]
    with PlainClients(stack) as clients:
        for model in cycle(("1.1", "1.2", "back")):
            if killed_in.total() >= KILLS:
                break
            over = rollout_with_kills(stack, model, chance, killed_in, KILLS)
            ends[over["phase"]] += 1
            assert over["phase"] == ("promoted" if model == "1.1" else "rolled_back"), (model, over["reason"])
            one_release_has_all_traffic(stack)
    twice = done_twice(stack.journal())
    rows = audited(stack)
    counted(
        f"control plane killed {killed_in.total()} times over {ends.total()} rollouts: {ends.total()} ended "
        f"({ends['promoted']} promoted, {ends['rolled_back']} rolled back), {len(twice)} host operations twice of "
        f"{len(stack.journal())} journal lines, 0 of {rows} audit rows lost"
    )
    counted(f"  killed in: {', '.join(f'{phase} {n}' for phase, n in killed_in.most_common())}")
    counted(f"  clients meanwhile: {clients.answered} requests answered, {len(clients.failures)} failed")
    assert killed_in.total() >= KILLS
    assert twice == []
    assert clients.failures == []
    assert clients.answered > 0
    _only_what_serves_runs(stack)


def _only_what_serves_runs(stack: RunningStack) -> None:
    """No candidate is left behind: the host runs exactly the replicas that the service's roles name."""
    live = {row["id"] for row in stack.rows("select id from replicas where state = 'ready'")}
    shown = {r["id"] for r in stack.must("status")["services"][0]["replicas"]}
    configured = {path.stem for path in (stack.host / "supervisor" / "conf.d").glob("*.conf")}
    assert configured == live == shown
    assert set(stack.engines()) == live
