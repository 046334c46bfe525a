"""One release after the other with real engines on a host that carries one: streams go on, the control plane is killed.

STACK_TEST_KILLS sets how many kills (1); STACK_TEST_SEED repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable

import pytest
from rollouts_under_kills import done_twice
from running_stack import MODELS, Json, RunningStack, until
from streams import StreamingClients

pytestmark = [pytest.mark.faults, pytest.mark.e2e, pytest.mark.timeout(3000)]
KILLS = int(os.environ.get("STACK_TEST_KILLS") or 1)
ONE_FITS = {"memory_mb": 64}
LONGEST_S = 200.0
PHASES = ("queueing", "draining", "starting", "starting", "warming", "confirming")


def test_one_engine_after_the_other_while_clients_stream(
    new_stack: Callable[..., RunningStack], chance: random.Random, counted: Callable[[str], None]
) -> None:
    stack = new_stack(rollout={"longest_pause_s": LONGEST_S}, host=ONE_FITS)
    stack.up()
    first = stack.deploy("1.0")
    assert first["phase"] == "promoted", first["reason"]
    way = stack.must("plan", "--model", str(MODELS / "tiny-1.1.yaml"))["ways"]["local"]
    assert way.startswith(("queue-swap, pause about", "not known")), way
    killed: Counter[str] = Counter()
    with StreamingClients(stack, patience_s=300) as clients:
        until(lambda: clients.answers)
        good = stack.deploy("1.1")
        assert good["phase"] == "promoted", good["reason"]
        bad = stack.deploy("1.2")
        assert bad["phase"] == "rolled_back", bad["reason"]
        assert "WORSE" in json.dumps(evidence(stack, bad["id"], "comparison"))
        ends: Counter[str] = Counter()
        while killed.total() < KILLS:
            rollout = stack.begin("back" if model(stack) == "tiny@1.1" else "1.1")
            kill_while_nobody_serves(stack, rollout, chance, killed)
            over = stack.ended(rollout)
            ends[over["phase"]] += 1
            assert over["phase"] in ("promoted", "rolled_back"), (over["phase"], over["reason"], over["notes"])
            until(lambda: sum(t["slice"] == "stable" for t in stack.table["targets"]) == 1)
        after = len(clients.answers)
        until(lambda: len(clients.answers) > after + 10, 120)
    lost = [a for a in clients.answers if a.cut or a.refused or not a.done]
    for name, over in (("1.1", good), ("1.2, which is worse", bad)):
        for pause in evidence(stack, over["id"], "pause"):
            counted(
                f"to {name}: requests waited {pause['measured_s']} s ({pause['predicted_s']} s predicted, "
                f"{pause['longest_s']:g} s allowed) until {pause['served_by']} served"
            )
    counted(
        f"{ends.total()} more with {killed.total()} kills of the control plane in {dict(killed)}: {dict(ends)}; "
        f"{len(clients.answers)} streams, {len(lost)} failed; {len(done_twice(stack.journal()))} host operations twice"
    )
    assert [(a.cut, a.refused) for a in lost] == []
    assert done_twice(stack.journal()) == []
    assert len(stack.engines()) == 1, "nothing is left behind"


def kill_while_nobody_serves(stack: RunningStack, rollout: str, chance: random.Random, killed: Counter[str]) -> None:
    """At a random moment of one of the phases from the table that makes requests wait on."""
    phase = chance.choice(PHASES)
    until(lambda: passed(stack, rollout, phase) or over(stack, rollout), 240)
    time.sleep(chance.uniform(0.0, 2.0))
    if not over(stack, rollout):
        killed[stack.row(rollout)["phase"]] += 1
        stack.kill("control-plane")
        stack.up()


def passed(stack: RunningStack, rollout: str, phase: str) -> bool:
    found = stack.rows("select data from events where rollout = ? and kind = 'phase'", rollout)
    return any(json.loads(row["data"]).get("to") == phase for row in found)


def over(stack: RunningStack, rollout: str) -> bool:
    return str(stack.row(rollout)["phase"]) in ("promoted", "rolled_back", "failed", "paused")


def model(stack: RunningStack) -> str:
    return next(str(t["model"]) for t in stack.table["targets"] if t["slice"] == "stable")


def evidence(stack: RunningStack, rollout: str, kind: str) -> list[Json]:
    rows = stack.rows("select body from evidence where rollout = ? and kind = ? order by id", rollout, kind)
    return [json.loads(row["body"]) for row in rows]
