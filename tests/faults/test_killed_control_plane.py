"""kill -9 of the control plane at random points of rollouts: each ends, nothing is done twice, nothing is lost.

STACK_TEST_KILLS sets how many kills (20); STACK_TEST_SEED repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle

import pytest
from clients import PlainClients
from running_stack import ENDED, Json, RunningStack, until

pytestmark = [pytest.mark.faults, pytest.mark.e2e, pytest.mark.timeout(3000)]
_UP = ("preflight", "placing", "warming", "smoking", "evaluating")
PHASES = {
    "1.0": (*_UP, "shifting", "holding", "promoting", "retiring"),
    "1.1": (*_UP, "shifting", "holding", "holding", "promoting", "retiring"),
    "1.2": (*_UP, "evaluating", "cleaning"),
    "back": ("checking", "switching", "confirming", "retiring"),
}
KILLS = int(os.environ.get("STACK_TEST_KILLS") or 20)


def test_every_rollout_survives_the_death_of_the_control_plane(
    new_stack: Callable[..., RunningStack], chance: random.Random, counted: Callable[[str], None]
) -> None:
    stack = new_stack()
    stack.up()
    killed_in: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    first = _rollout(stack, "1.0", chance, killed_in, KILLS)
    ends[first["phase"]] += 1
    assert first["phase"] == "promoted", first["reason"]
    with PlainClients(stack) as clients:
        for model in cycle(("1.1", "1.2", "back")):
            if killed_in.total() >= KILLS:
                break
            over = _rollout(stack, model, chance, killed_in, KILLS)
            ends[over["phase"]] += 1
            assert over["phase"] == ("promoted" if model == "1.1" else "rolled_back"), (model, over["reason"])
            _one_release_has_all_traffic(stack)
    twice = done_twice(stack.journal())
    rows = _audited(stack)
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


def _rollout(stack: RunningStack, model: str, chance: random.Random, killed_in: Counter[str], most: int) -> Json:
    """One rollout with several kills on its way; how it ended."""
    rollout = stack.begin(model)
    for _ in range(chance.randint(2, 4)):
        if killed_in.total() >= most:
            break
        phase = _moment(stack, rollout, PHASES[model], chance)
        if phase in ENDED:
            break
        stack.kill("control-plane")
        killed_in[phase] += 1
        time.sleep(chance.choice((0.0, 0.0, chance.uniform(0.0, 1.0))))
        stack.up()
    over = stack.ended(rollout)
    assert over["phase"] in ENDED, f"{rollout} stands still: {over['phase']}: {over['reason']}"
    until(lambda: stack.must("status")["gateway"]["healthy"])
    return over


def _moment(stack: RunningStack, rollout: str, phases: tuple[str, ...], chance: random.Random) -> str:
    """Wait for a random moment of the rollout; the phase it is in then. Most of a rollout's time is Ansible's, so
    most moments lie in a phase that was drawn."""
    wanted = chance.choice((None, *phases))
    end = time.monotonic() + (60 if wanted else chance.uniform(0.0, 4.0))
    while (phase := str(stack.row(rollout)["phase"])) not in (*ENDED, wanted) and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(chance.choice((0.0, chance.uniform(0.0, 0.3))))
    return str(stack.row(rollout)["phase"]) if phase not in ENDED else phase


def _one_release_has_all_traffic(stack: RunningStack) -> None:
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


def _audited(stack: RunningStack) -> int:
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


def _only_what_serves_runs(stack: RunningStack) -> None:
    """No candidate is left behind: the host runs exactly the replicas that the service's roles name."""
    live = {row["id"] for row in stack.rows("select id from replicas where state = 'ready'")}
    shown = {r["id"] for r in stack.must("status")["services"][0]["replicas"]}
    configured = {path.stem for path in (stack.host / "supervisor" / "conf.d").glob("*.conf")}
    assert configured == live == shown
    assert set(stack.engines()) == live
