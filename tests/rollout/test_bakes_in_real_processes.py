"""A rung is held by real processes while the clock is set by an hour, the zone changes, and the process dies.

The whole rung is held by the process that comes to its end: what an earlier one saw, or what a clock on the wall says,
makes none of it shorter. Durations are those of the kernel's monotonic clock, which is the same in all processes.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_worker import Nobody, Open, Script, begin

from stack.core.clock import SystemClock
from stack.rollout.holding import Holding
from stack.rollout.machine import Judged, Observation
from stack.rollout.verdict import Limits
from stack.rollout.worker import Worker
from stack.store.store import Store

CLOCK = SystemClock()
HELD_S = 2.0
LIMITS = Limits(
    min_requests=60,
    min_seconds=HELD_S / 2,
    max_seconds=HELD_S,
    max_error_rate=0.05,
    max_latency_p95_s=8,
    max_ttft_p95_s=4,
    max_latency_ratio=3,
    confidence=0.95,
)


class Wall(SystemClock):
    """A clock on the wall whose hands others move, by a file with hours in it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def now(self) -> datetime:
        return super().now() + timedelta(hours=float(self.file.read_text()))


class ControlPlane:
    """A worker in a process of its own; what it says of its rung is a line in a file."""

    def __init__(self, folder: Path, zone: str) -> None:
        self.folder, self.zone = folder, zone
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._work()
            finally:
                os._exit(1)

    def _work(self) -> None:
        os.environ["TZ"] = self.zone
        time.tzset()
        clock = Wall(self.folder / "hours")
        store = Store.open(self.folder / "state.db", clock)
        worker = Worker(store, Script(holding=self._hold(store, clock)), Open(), Nobody(), clock, holder="w")
        worker.run(lambda lead: None, lambda: None)

    def _hold(self, store: Store, clock: Wall) -> Any:
        samples = {"boot_id": "b", "cursor": 1, "targets": {}}
        control: Any = SimpleNamespace(attempts=lambda since=0: samples)
        nothing: Any = None
        holding = Holding(store=store, services={}, access=nothing, control=control, clock=clock)

        def hold(state: Any, context: Any) -> Observation:
            self._say("begun")
            judged = holding._watch(state, context, LIMITS, None)
            self._say("ended")
            assert isinstance(judged, Judged)
            return judged

        return hold

    def _say(self, what: str) -> None:
        line = {"what": what, "pid": os.getpid(), "at": CLOCK.monotonic()}
        with (self.folder / "said").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def said(self, what: str) -> float:
        """When this process said so first; waits for it."""
        for _ in range(2400):
            path = self.folder / "said"
            lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            for line in lines:
                if (line["what"], line["pid"]) == (what, self.pid):
                    return float(line["at"])
            CLOCK.sleep(0.05)
        raise AssertionError(f"it never {what}")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "hours").write_text("0")
    store = Store.open(tmp_path / "state.db", CLOCK)
    begin(store)
    store.close()
    return tmp_path


@pytest.mark.parametrize(("before", "after"), [("1", "2"), ("-1", "-2"), ("1", "-1")])
def test_no_rung_is_cut_short(folder: Path, before: str, after: str) -> None:
    first = ControlPlane(folder, "Europe/Berlin")
    second = None
    try:
        first.said("begun")
        (folder / "hours").write_text(before)
        CLOCK.sleep(HELD_S / 4)
        first.kill()
        (folder / "hours").write_text(after)
        second = ControlPlane(folder, "America/New_York")
        begun = second.said("begun")
        (folder / "hours").write_text("0")
        assert second.said("ended") - begun >= HELD_S
    finally:
        first.kill()
        if second is not None:
            second.kill()
