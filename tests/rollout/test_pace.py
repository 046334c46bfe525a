"""How long a swap's pause is predicted to be: from what earlier rollouts left, and from nothing else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack.core.clock import unstamp
from stack.core.names import RolloutId
from stack.fleet.values import HostEvent
from stack.rollout.pace import DRAIN_LIMIT_S, ONCE, History, Stopwatch, pace_of
from stack.rollout.pause import allowed_s
from stack.store.rows import EventRow, EvidenceRow

NOON = unstamp("2026-03-29T12:00:00.000000Z")
PLAYBOOKS = Path(__file__).parents[2] / "playbooks"
WAY = (("planned", 0), ("placing", 1), ("warming", 41), ("smoking", 44), ("evaluating", 45), ("shifting", 55))


def history(*operations: dict[str, Any], way: Any = WAY, compared: bool = False) -> History:
    moves = [
        EventRow(
            rollout=RolloutId("ro-a"), seq=n + 1, kind="phase", text="", created_at=NOON + timedelta(seconds=at),
            data={"from": way[n - 1][0] if n else "", "to": name},
        )
        for n, (name, at) in enumerate(way)
    ]  # fmt: skip
    rows = [("placing", "operation", body) for body in operations]
    rows += [("evaluating", "eval-stable", {})] if compared else []
    kept = [
        EvidenceRow(rollout=RolloutId("ro-a"), id=n, phase=phase, kind=kind, body=body, created_at=NOON)
        for n, (phase, kind, body) in enumerate(rows)
    ]
    return History(evidence=kept, events=moves)


def operation(playbook: str, again_s: Any, status: str = "done") -> dict[str, Any]:
    return {"playbook": playbook, "status": status, "again_s": again_s}


def test_a_start_is_everything_until_it_is_proven() -> None:
    assert history(operation("deploy.yml", 6.0)).start_s() == 6 + 3 + 1 + 10
    assert history(operation("deploy.yml", 6.0), compared=True).start_s() == 6 + 3 + 1 + 5, "stable was asked as well"
    assert history(operation("deploy.yml", 6.0), operation("deploy.yml", 5.0)).start_s() == 25, (
        "one replica after another"
    )


def test_an_older_release_that_timed_no_operations_counts_with_all_of_its_placing() -> None:
    assert history({"operation": "x", "status": "done"}).start_s() == 40 + 3 + 1 + 10


@pytest.mark.parametrize("end", range(1, 5))
def test_what_never_got_ready_is_no_measure_of_a_start(end: int) -> None:
    assert history(operation("deploy.yml", 6.0), way=WAY[:end]).start_s() is None


@pytest.mark.parametrize("wrong", ["fast", None, True, -1.0, float("nan"), float("inf"), 1e9])
def test_what_is_no_time_is_not_counted(wrong: Any) -> None:
    assert history(operation("drain.yml", wrong)).operations(("drain.yml",)) == []
    assert history(operation("drain.yml", 3.0, "failed")).operations(("drain.yml",)) == []


def test_a_clock_that_was_set_back_gives_no_time() -> None:
    back = (("planned", 0), ("placing", 100), ("warming", 10), ("smoking", 12), ("evaluating", 13), ("shifting", 14))
    assert "placing" not in history(way=back).phases()
    assert history(way=back).start_s() is None, "nothing says how long the start took"


def test_the_longest_of_each_is_predicted_and_nothing_without_a_start() -> None:
    slow = history(operation("deploy.yml", 20.0), operation("drain.yml", 4.0))
    quick = history(operation("deploy.yml", 6.0), operation("drain.yml", 7.0))
    assert pace_of([slow, quick], 1).pause_s == 34 + 7
    assert pace_of([slow, quick], 2).pause_s == 34 + 14
    assert pace_of([history(operation("deploy.yml", 6.0))], 1).pause_s == 20 + DRAIN_LIMIT_S
    assert pace_of([], 1).pause_s is None
    assert pace_of([history(way=WAY[:3])], 1).pause_s is None


class Ticking:
    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        return self.at


def test_what_is_installed_and_copied_once_is_not_counted_again() -> None:
    clock: Any = Ticking()
    watch = Stopwatch(clock)
    for at, kind, task in ((1, "task", "Look at the host"), (3, "task", "Install the runtime"), (9, "ok", "x"),
                           (33, "task", "Start the replica"), (36, "task", "Report")):  # fmt: skip
        clock.at = float(at)
        watch.saw(HostEvent(kind=kind, host="local", task=task))  # type: ignore[arg-type]
    assert watch.again_s(38.0) == 8.0
    assert watch.again_s(5.0) == 0.0


def test_the_tasks_that_are_done_once_are_those_of_the_playbooks() -> None:
    texts = [
        path.read_text() for part in ("runtime", "replica") for path in PLAYBOOKS.glob(f"roles/{part}/tasks/*.yml")
    ]
    names = {task["name"] for text in texts for task in yaml.safe_load(text)}
    assert names >= ONCE
    assert {"Start the replica", "Start the supervisor", "Stop the replica"} <= names - ONCE


@pytest.mark.parametrize(
    ("plan", "seconds"),
    [
        (None, 0.0),
        ({"settings": {}}, 0.0),
        ({"settings": {"longest_pause_s": 30}}, 30.0),
        ({"settings": {"longest_pause_s": 30, "accept_pause_s": 60}}, 60.0),
        ({"settings": {"longest_pause_s": 30, "accept_pause_s": 0}}, 0.0),
    ],
)
def test_a_pause_is_allowed_by_the_plan_alone(plan: Any, seconds: float) -> None:
    assert allowed_s(plan) == seconds
