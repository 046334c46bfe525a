"""Rollouts whose control plane is killed at random moments, and what must be whole afterwards. Whom to kill and how is
the caller's."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable

from running_stack import ENDED, Json, RunningStack, until

_UP = ("preflight", "placing", "warming", "smoking", "evaluating")
PHASES = {
    "1.0": (*_UP, "shifting", "holding", "promoting", "retiring"),
    "1.1": (*_UP, "shifting", "holding", "holding", "promoting", "retiring"),
    "1.2": (*_UP, "evaluating", "cleaning"),
    "back": ("checking", "switching", "confirming", "retiring"),
}


def control_plane(stack: RunningStack) -> None:
    """The usual victim."""
    stack.kill("control-plane")


def rollout_with_kills(
    stack: RunningStack,
    model: str,
    chance: random.Random,
    killed_in: Counter[str],
    most: int,
    kill: Callable[[RunningStack], None] = control_plane,
    each: tuple[int, int] = (2, 4),
) -> Json:
    """One rollout with ``each`` kills on its way, ``most`` in all; how it ended."""
    rollout = stack.begin(model)
    for _ in range(chance.randint(*each)):
        if killed_in.total() >= most:
            break
        phase = _moment(stack, rollout, PHASES[model], chance)
        if phase in ENDED:
            break
        kill(stack)
        killed_in[phase] += 1
        time.sleep(chance.choice((0.0, 0.0, chance.uniform(0.0, 1.0))))
        stack.up()
    over = stack.ended(rollout)
    assert over["phase"] in ENDED, f"{rollout} stands still: {over['phase']}: {over['reason']}"
    until(lambda: stack.must("status")["gateway"]["healthy"])
    return over


def _moment(stack: RunningStack, rollout: str, phases: tuple[str, ...], chance: random.Random) -> str:
    """Wait for a random moment of the rollout; the phase it is in then. Most of a rollout's time is Ansible's, so
    most moments lie in a phase that was drawn of those that may still come."""
    now = str(stack.row(rollout)["phase"])
    wanted = chance.choice((None, *(phases[phases.index(now) :] if now in phases else phases)))
    end = time.monotonic() + (60 if wanted else chance.uniform(0.0, 4.0))
    while (phase := str(stack.row(rollout)["phase"])) not in (*ENDED, wanted) and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(chance.choice((0.0, chance.uniform(0.0, 0.3))))
    return str(stack.row(rollout)["phase"]) if phase not in ENDED else phase


def one_release_has_all_traffic(stack: RunningStack) -> None:
    """No rollout is open: the table names the stable release alone, and its replicas are healthy."""
    status = stack.must("status")["services"][0]
    stable = status["stable"]["release"]
    table = stack.table
    assert table["weights"] == {"stable": 100}
    assert {t["release"] for t in table["targets"] if t["slice"] == "stable"} == {stable}
    assert not [t for t in table["targets"] if t["slice"] == "candidate"]
    code, headers, _ = stack.ask()
    assert (code, headers["x-stack-release"]) == (200, stable)
    healthy = [r for r in status["replicas"] if r["release"] == stable and r["state"] == "healthy"]
    assert healthy, status["replicas"]
    assert {r["observed_digest"] for r in healthy} == {stable}


def done_twice(journal: list[Json]) -> list[tuple[str, str]]:
    """Steps of host operations that took effect more than once."""
    effects = Counter((line["op"], line["step"]) for line in journal if line["event"] in ("done", "reconciled"))
    return [step for step, times in effects.items() if times > 1]


def audited(stack: RunningStack) -> int:
    """The chain holds without a gap, and each phase that a rollout went through has its row. How many there are."""
    report = stack.must("audit", "verify")
    rows = stack.rows("select seq, action, change, body_json as body from audit order by seq")
    assert report["ok"] is True, report
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert report["count"] == len(rows)
    for rollout in stack.rows("select id, phase from rollouts"):
        moves = [
            json.loads(r["body"]) for r in rows if r["change"] == rollout["id"] and "from" in json.loads(r["body"])
        ]
        phases = stack.rows("select data from events where rollout = ? and kind = 'phase' order by seq", rollout["id"])
        went = [json.loads(p["data"]) for p in phases if json.loads(p["data"])]
        assert [(m["from"], m["to"]) for m in moves] == [(p["from"], p["to"]) for p in went]
        assert [m["from"] for m in moves[1:]] == [m["to"] for m in moves[:-1]]
        assert moves[-1]["to"] == rollout["phase"]
    return len(rows)
