"""A host on which a replica can't be stopped: each try dies there. The rollout ends and says that it needs an operator;
the replica is not forgotten, and the next rollout ends it once that works again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet_stack import FleetStack, ssh_hosts
from host_victims import Killer, Victim, Words, processes
from running_stack import until

from stack.rollout.machine import CLEANING_ATTEMPTS

pytestmark = [pytest.mark.faults, pytest.mark.hosts, pytest.mark.timeout(1200)]


def stopping(words: Words) -> bool:
    return len(words) > 2 and words[1] == "/opt/stack/bin/replica.py" and words[2] == "stop"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FleetStack]:
    with ssh_hosts(1) as group:
        made = FleetStack.over(tmp_path, group, rollout={"ladder": [100]})
        try:
            made.up()
            yield made
        finally:
            made.down()


def engines(fleet: FleetStack, replica: str) -> int:
    """Processes on the host that run from this replica's folder."""
    folder = f"/opt/stack/replicas/{replica}"
    return sum(folder in process.words for process in processes(fleet.group, fleet.group.hosts[0]))


def test_what_can_not_be_stopped_needs_an_operator_and_is_not_forgotten(
    fleet: FleetStack, chance: random.Random, counted: Callable[[str], None]
) -> None:
    host = fleet.group.hosts[0]
    rollout = fleet.begin("1.0")
    until(lambda: fleet.row(rollout)["phase"] == "warming", 300)
    victim = Victim(name="replica.py stop", which=stopping, within_s=0.0)
    with Killer(fleet.group, host, victim, chance, times=1000) as killer:
        fleet.must("rollout", "abort", rollout, "--reason", "not wanted", "--no-wait")
        over = fleet.ended(rollout)
    assert over["phase"] == "rolled_back"
    (left,) = fleet.rows("select id, state, slice from replicas")
    assert [note for note in over["notes"] if "needs an operator" in note and left["id"] in note], over["notes"]
    assert (left["state"], left["slice"]) == ("draining", "retired"), "it may still run"
    assert engines(fleet, left["id"]) > 0
    assert len(killer.killed) >= CLEANING_ATTEMPTS
    done = [line for line in fleet.journals()[host.name] if line["step"] == "stop" and line["event"] == "done"]
    assert done == []
    said = json.dumps(fleet.must("rollout", "show", rollout))
    assert "needs an operator" in said
    assert fleet.deploy("1.0")["phase"] == "promoted"
    assert engines(fleet, left["id"]) == 0
    assert fleet.rows("select state from replicas where id = ?", left["id"]) == [{"state": "stopped"}]
    counted(
        f"a replica that can't be stopped: {len(killer.killed)} tries, needs an operator; ended by the next rollout"
    )
