"""How a process knows that its lead is over, and that another's is: by durations, never by what time it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stack.core.clock import Clock, ManualClock, SystemClock, stamp, unstamp
from stack.rollout.holding import Holding
from stack.rollout.machine import Judged
from stack.rollout.tenure import Over, Watch
from stack.rollout.verdict import Limits
from stack.rollout.worker import LEASE, Worker
from stack.store.rows import Lease
from stack.store.store import Store

WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
HELD = Lease(name=LEASE, holder="a", epoch=1, expires_at=WHEN)


class SetClock:
    """A clock whose hands are moved: the time of day jumps, durations do not."""

    def __init__(self, under: Clock | None = None) -> None:
        self.under = under or SystemClock()
        self.offset = timedelta()

    def now(self) -> datetime:
        return self.under.now() + self.offset

    def monotonic(self) -> float:
        return self.under.monotonic()

    def sleep(self, seconds: float) -> None:
        self.under.sleep(seconds)


def test_a_lead_is_over_by_itself_once_it_was_not_renewed() -> None:
    clock = ManualClock()
    over = Over(clock, 6.0, clock.monotonic())
    clock.advance(5.9)
    assert not over.is_set()
    over.renewed(clock.monotonic() - 1)
    clock.advance(4.9)
    assert not over.is_set()
    clock.advance(0.2)
    assert over.is_set()
    over.renewed(clock.monotonic())
    assert over.is_set(), "what is over stays over"


def test_a_lead_that_is_given_up_is_over_at_once() -> None:
    over = Over(ManualClock(), 6.0, 0.0)
    over.set()
    assert over.is_set() and over.wait(0)


def test_a_lease_is_unmoved_after_more_than_its_length_without_any_change() -> None:
    clock = ManualClock()
    watch = Watch(clock, 6.0)
    assert watch.unmoved(None) is None
    assert watch.unmoved(HELD) is None
    clock.advance(8.9)
    assert watch.unmoved(HELD) is None
    renewed = replace(HELD, expires_at=WHEN + timedelta(seconds=1))
    assert watch.unmoved(renewed) is None
    clock.advance(9.1)
    assert watch.unmoved(renewed) == renewed
    assert watch.unmoved(None) is None
    assert watch.unmoved(renewed) is None


@pytest.mark.parametrize("hours", [1, -1])
def test_no_lease_is_lost_when_the_control_planes_clock_is_set(tmp_path: Path, hours: int) -> None:
    clock = SetClock()
    store = Store.open(tmp_path / "state.db", clock)
    leads: list[int] = []
    nothing: Any = None
    worker = Worker(store, nothing, nothing, nothing, clock, holder="one", ttl_s=0.6)
    thread = threading.Thread(target=worker.run, args=(lambda lead: leads.append(lead.lease.epoch), lambda: None))
    thread.start()
    for _ in range(4):
        clock.sleep(0.4)
        clock.offset += timedelta(hours=hours)
    clock.sleep(0.4)
    worker.stop()
    thread.join(20)
    assert leads == [1]
    store.close()


def test_the_lease_of_a_dead_holder_is_taken_though_the_databases_clock_went_back(tmp_path: Path) -> None:
    clock = SystemClock()
    store = Store.open(tmp_path / "state.db", clock)
    with store.transaction() as tx:
        tx.acquire_lease(LEASE, "dead", 3600)
    taken = threading.Event()
    nothing: Any = None
    worker = Worker(store, nothing, nothing, nothing, clock, holder="next", ttl_s=0.4)
    thread = threading.Thread(target=worker.run, args=(lambda lead: taken.set(), lambda: None))
    thread.start()
    assert taken.wait(20)
    worker.stop()
    thread.join(20)
    store.close()


ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
_CHILD = """
import json, sys, time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from stack.core.clock import ManualClock, SystemClock, stamp, unstamp
from stack.store.store import Store
store = Store.open(Path(sys.argv[1]))
with store.transaction() as tx:
    lease = tx.acquire_lease("orchestrator", sys.argv[2], 600)
said = [stamp(m) for m in (datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC), datetime(2026, 10, 25, 1, 0, tzinfo=UTC))]
off = abs((unstamp(stamp(SystemClock().now())) - datetime.fromtimestamp(time.time(), UTC)).total_seconds())
print(json.dumps([said, lease.epoch if lease else None, off < 5]))
"""


def test_the_time_zone_of_a_process_changes_nothing(tmp_path: Path) -> None:
    """Moments are UTC in every process: one in another zone sees the same lease, stamps and order, also when summer
    time begins or ends there."""
    answers = set()
    for number, zone in enumerate(ZONES):
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, str(tmp_path / "state.db"), "a"],
            env={**os.environ, "TZ": zone},
            capture_output=True,
            text=True,
            check=True,
        )
        said, epoch, near = json.loads(done.stdout)
        assert (epoch, near) == (number + 1, True)
        answers.add(tuple(said))
    assert answers == {("2026-03-29T00:59:59.000000Z", "2026-10-25T01:00:00.000000Z")}


def test_stamps_sort_through_the_hour_that_happens_twice() -> None:
    moments = [datetime(2026, 10, 24, 23, 50, tzinfo=UTC) + timedelta(minutes=10 * n) for n in range(12)]
    assert sorted(map(stamp, moments)) == [stamp(m) for m in moments]
    assert [unstamp(stamp(m)) for m in moments] == moments


def bake(tmp_path: Path, clock: Clock) -> tuple[float, str]:
    """How long a rung without any traffic is held, and what it says then."""
    store = Store.open(tmp_path / "state.db", clock)
    samples = {"boot_id": "b", "cursor": 1, "targets": {}}
    control: Any = SimpleNamespace(attempts=lambda since=0: samples)
    context: Any = SimpleNamespace(check=lambda: None, tell=lambda *_, **__: None, evidence=lambda *_: None)
    state: Any = SimpleNamespace(id="ro-a", service="tiny", stable=None, percent=5)
    nothing: Any = None
    limits = Limits(
        min_requests=60,
        min_seconds=20,
        max_seconds=60,
        max_error_rate=0.05,
        max_latency_p95_s=8,
        max_ttft_p95_s=4,
        max_latency_ratio=3,
        confidence=0.95,
    )
    begun = clock.monotonic()
    held = Holding(store=store, services={}, access=nothing, control=control, clock=clock)
    judged = held._watch(state, context, limits, None)
    store.close()
    assert isinstance(judged, Judged)
    return clock.monotonic() - begun, str(judged.verdict)


@pytest.mark.parametrize("hours", [1, -1])
def test_a_bake_lasts_as_long_as_it_says_though_the_clock_is_set(tmp_path: Path, hours: int) -> None:
    clock = SetClock(ManualClock())
    sleep = clock.sleep

    def jump(seconds: float) -> None:
        sleep(seconds)
        clock.offset += timedelta(hours=hours)

    clock.sleep = jump  # type: ignore[method-assign]
    assert bake(tmp_path, clock) == bake(tmp_path, ManualClock()) == (pytest.approx(60, abs=0.3), "INCONCLUSIVE")
