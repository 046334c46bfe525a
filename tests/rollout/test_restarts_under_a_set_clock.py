"""The clock is set while replicas are started again: never more restarts than allowed, and never none for ever."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from test_monitor import ILL, Room, room
from test_tenure import SetClock

from stack.core.clock import ManualClock
from stack.rollout.restarting import Ages, Restarter
from stack.rollout.wellness import Limits

__all__ = ["room"]
STEP_S = 10.0


class Sick:
    """A replica that stays sick and is asked about every ten seconds. ``begun``: when it was started again."""

    def __init__(self, room: Room) -> None:
        self.room, self.clock = room, SetClock(room.office.clock)
        self.begun: list[float] = []
        self.begin_process()

    def begin_process(self) -> None:
        """The control plane is started again: only the log is left."""
        hosts: Any = self.room.hosts
        self.restarter = Restarter(
            store=self.room.office.store,
            hosts=hosts,
            authority=self.room.restarter.authority,
            clock=self.clock,
            limits=Limits(),
        )

    def look(self) -> None:
        with self.room.office.store.reading() as tx:
            held = self.restarter.held(tx, self.room.row)
        if held is None:
            self.restarter.restart(self.room.row, ILL, self.room.context)
            self.begun.append(self.clock.monotonic())
        self.clock.sleep(STEP_S)

    @property
    def crowded(self) -> bool:
        """Four within ten minutes."""
        return any(fourth - first < 600 for first, fourth in zip(self.begun, self.begun[3:], strict=False))


@pytest.mark.parametrize("seed", range(3))
def test_never_more_than_three_in_ten_minutes_however_the_clock_is_set(room: Room, seed: int) -> None:
    chance, sick = random.Random(seed), Sick(room)
    for _ in range(200):
        if chance.random() < 0.2:
            sick.clock.offset += timedelta(hours=chance.choice((-1, 1)))
        sick.look()
    assert not sick.crowded
    assert len(sick.begun) >= 8, "it is not given up by a clock either"


@pytest.mark.parametrize("hours", [1, -1])
def test_a_jump_before_a_restart_of_the_control_plane_blocks_for_no_longer_than_the_window(
    room: Room, hours: int
) -> None:
    sick = Sick(room)
    for _ in range(20):
        sick.look()
    assert len(sick.begun) == 3
    sick.clock.offset += timedelta(hours=hours)
    sick.begin_process()
    for _ in range(80):
        sick.look()
    later, sick.begun = sick.begun[3:], sick.begun[3:]
    assert later and later[0] <= 20 * STEP_S + 600 + STEP_S
    assert not sick.crowded


def test_a_record_of_the_future_is_of_now() -> None:
    clock = SetClock(ManualClock())
    ages, before = Ages(clock), clock.now()
    assert ages.of(1, before + timedelta(hours=1)) == 0
    assert ages.of(2, before - timedelta(seconds=30)) == 30
    clock.offset -= timedelta(days=1)
    clock.sleep(5)
    assert (ages.of(1, before), ages.of(2, before)) == (5, 35)
