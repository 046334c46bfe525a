"""kill -9 of the control plane, alone or with its playbooks, while it deploys over three SSH hosts; restarted at once.

STACK_TEST_KILLS sets how many kills (4); STACK_TEST_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import pytest
from clients import PlainClients
from fleet_stack import FleetStack, ssh_hosts
from rollouts_under_kills import audited, done_twice, one_release_has_all_traffic, rollout_with_kills
from running_stack import Json, RunningStack

pytestmark = [pytest.mark.faults, pytest.mark.hosts, pytest.mark.timeout(6000)]
KILLS = int(os.environ.get("STACK_TEST_KILLS") or 4)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FleetStack]:
    with ssh_hosts(3) as group:
        made = FleetStack.over(tmp_path, group, rollout={"ladder": [50, 100]})
        try:
            made.up()
            yield made
        finally:
            made.down()


def test_each_operation_takes_effect_once_on_each_host(
    fleet: FleetStack, chance: random.Random, counted: Callable[[str], None]
) -> None:
    killed_in: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    playbooks: list[int] = []

    def kill(_: RunningStack) -> None:
        if chance.random() < 0.4:
            fleet.kill("control-plane")
        elif running := fleet.kill_with_playbooks():
            playbooks.append(running)

    def one(model: str) -> None:
        over = rollout_with_kills(fleet, model, chance, killed_in, KILLS, kill, (3, 6))
        ends[over["phase"]] += 1
        wanted = "rolled_back" if model in ("1.2", "back") else "promoted"
        assert (over["phase"], over["notes"]) == (wanted, []), (model, over["reason"], over["notes"])

    one("1.0")
    with PlainClients(fleet) as clients:
        for model in cycle(("1.1", "back", "1.1", "1.2", "back")):
            if killed_in.total() >= KILLS:
                break
            one(model)
            one_release_has_all_traffic(fleet)
    journals = fleet.journals()
    twice = [(host, *step) for host, journal in journals.items() for step in done_twice(journal)]
    effects = sum(line["event"] in ("done", "reconciled") for journal in journals.values() for line in journal)
    rows = audited(fleet)
    counted(
        f"3 SSH hosts, control plane killed {killed_in.total()} times, {len(playbooks)} of them with its "
        f"{sum(playbooks)} running playbooks: {ends.total()} rollouts ended ({ends['promoted']} promoted, "
        f"{ends['rolled_back']} rolled back), {effects} steps done on hosts, {len(twice)} twice, "
        f"{len(fleet.left_open())} left open, 0 of {rows} audit rows lost"
    )
    counted(f"  killed in: {', '.join(f'{phase} {n}' for phase, n in killed_in.most_common())}")
    counted(f"  clients meanwhile: {clients.answered} requests answered, {len(clients.failures)} failed")
    assert killed_in.total() >= KILLS
    assert twice == []
    assert fleet.left_open() == []
    assert clients.failures == []
    assert clients.answered > 0 or KILLS < 3
    _what_was_decided_was_done_once(fleet, journals)
    _engines_opened_their_models_once(fleet, journals)
    _no_older_epoch_began_after_a_newer_one(journals)
    _only_what_serves_runs(fleet)


def _what_was_decided_was_done_once(fleet: FleetStack, journals: dict[str, list[Json]]) -> None:
    """Each replica of a rollout was started once, on its host and on no other; each that it retired, stopped once."""
    for row in fleet.rows("select id from rollouts"):
        state = fleet.row(row["id"])
        started = _effects(journals, f"{row['id']}.start-", "start")
        if state["kind"] == "deploy":
            assert started == Counter(place["host"] for place in state["placements"]), row["id"]
        for place in state["retire"]:
            assert _effects(journals, f"{row['id']}.retire-{place['replica']}.", "stop") == {place["host"]: 1}


def _effects(journals: dict[str, list[Json]], operation: str, step: str) -> Counter[str]:
    """Host -> how often this step of operations that begin so took effect there."""
    return Counter(
        host
        for host, journal in journals.items()
        for line in journal
        if line["op"].startswith(operation) and line["step"] == step and line["event"] in ("done", "reconciled")
    )


def _engines_opened_their_models_once(fleet: FleetStack, journals: dict[str, list[Json]]) -> None:
    """Seen from the engines, not from the fence: one start, and one more for each that was asked for on purpose."""
    for (host, replica), starts in fleet.starts().items():
        asked = {line["op"] for line in journals[host] if line["step"] == "start" and f"{replica}." in line["op"]}
        assert 1 <= starts <= 1 + len(asked), (host, replica, starts, asked)


def _no_older_epoch_began_after_a_newer_one(journals: dict[str, list[Json]]) -> None:
    for journal in journals.values():
        begun = [line["epoch"] for line in journal if line["event"] == "begin"]
        assert begun == sorted(begun)


def _only_what_serves_runs(fleet: FleetStack) -> None:
    """No candidate is left behind on any host."""
    live: dict[str, set[str]] = {host.name: set() for host in fleet.group.hosts}
    for row in fleet.rows("select id, host from replicas where state = 'ready'"):
        live[row["host"]].add(row["id"])
    assert fleet.configured() == live
