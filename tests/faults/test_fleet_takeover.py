"""Two control planes on one PostgreSQL, a real SSH host: one is stopped beyond its lease while its playbook runs there,
perhaps with the playbook; the other takes over and acts; the first is continued. Nothing of the old epoch is begun on
the host any more, and nothing of it is written.

STACK_TEST_STOPS sets how many stops (3); STACK_TEST_SEED repeats a run.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fleet_stack import descendants, lines_of, ssh_hosts
from orchestrating import CLOCK, Fenced, FencedHost, begin, found, worker
from running_stack import MODELS, REPOSITORY, Json, alive, until
from test_two_orchestrators import Orchestrator

from demo.hosts import HostGroup
from stack.core.errors import StackError
from stack.core.names import HostName, OperationId
from stack.fleet import AnsibleDoor, Host, Operation, OperationResult
from stack.rollout.tenure import TTL_S, Leadership
from stack.store import postgresql
from stack.store.store import Store
from tests.fleet.conftest_fleet import launch_variables
from tests.store.postgres_server import Server

pytestmark = [pytest.mark.faults, pytest.mark.hosts, pytest.mark.timeout(1800)]
STOPS = int(os.environ.get("STACK_TEST_STOPS") or 3)
_LAST = ("start", "stop")


class FailedThere(StackError):
    """The host says {detail}."""


class SshHost(FencedHost):
    """A real host behind the real door, in place of a folder: a rollout's replica is started there and stopped."""

    def __init__(self, group: HostGroup, directory: Path) -> None:
        self.made = group.hosts[0]
        self.root = group.machine(self.made).root / "opt" / "stack"
        self.directory = directory
        self.door = AnsibleDoor(
            project=REPOSITORY / "playbooks",
            runner_dir=directory,
            known_hosts=group.known_hosts,
            identity=group.key,
        )

    def do(self, operation: str, epoch: int) -> None:
        """Only what a rollout does on hosts; its other phases have no effect here."""
        rollout, phase, _ = operation.split(".")
        if phase in ("placing", "retiring"):
            ended = self.play(operation, "deploy.yml" if phase == "placing" else "drain.yml", rollout, epoch)
            if ended.status == "fenced":
                raise Fenced(str(epoch))
            if not ended.succeeded:
                raise FailedThere(f"{ended.status}: {ended.failed_task} {ended.message}")

    def play(self, operation: str, playbook: str, rollout: str, epoch: int) -> OperationResult:
        port = 22000 + int(rollout.rpartition("-")[2]) % 1000
        values: dict[str, Any] = {"replica_id": f"r-{rollout}", "grace_s": 2}
        if playbook == "deploy.yml":
            launch = launch_variables(MODELS / "tiny-1.0" / "gguf", port)
            values = {**launch, "replica_id": f"r-{rollout}", "bind_address": self.made.address}
        host = Host(
            name=HostName(self.made.name), connection="ssh", address=self.made.address, user="root", root="/opt/stack"
        )
        op = Operation(op_id=OperationId(operation), epoch=epoch, host=host, playbook=playbook, variables=values)
        return self.door.run(op)

    def journal_lines(self) -> list[Json]:
        return lines_of(self.root / "fence" / "journal.jsonl")

    def lines(self) -> list[dict[str, Any]]:
        """The last step of each operation, as ``found`` counts."""
        words = {"done": "done", "reconciled": "done", "already": "again", "refused": "refused"}
        return [
            {"what": words[line["event"]], "operation": line["op"], "epoch": line["epoch"]}
            for line in self.journal_lines()
            if line["event"] in words and line["step"] in _LAST
        ]


@dataclass
class OverSsh(Orchestrator):
    """A control plane whose host is the real one."""

    group: HostGroup | None = None

    def _work(self) -> None:
        logging.disable()
        assert self.group is not None
        postgresql.SILENT_WRITER_S = min(postgresql.SILENT_WRITER_S, self.ttl_s)
        store = Store.open(self.url, wait_s=30)
        at_work = worker(store, SshHost(self.group, self.directory / self.name), self.name, ttl_s=self.ttl_s)

        def on_lead(lead: Leadership) -> None:
            line = {"at": CLOCK.monotonic(), "who": self.name, "epoch": lead.lease.epoch}
            with (self.directory / "leads").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

        at_work.run(on_lead, lambda: None)

    def playbooks(self) -> list[int]:
        """The process groups of its playbooks that run now."""
        groups = set()
        for pid in descendants(self.pid):
            with suppress(OSError):
                if b"ansible-playbook" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    groups.add(os.getpgid(pid))
        return sorted(groups - {os.getpgid(0)})


@dataclass
class Stage:
    """A database, a host, two control planes."""

    url: str
    host: SshHost
    directory: Path
    both: dict[str, OverSsh]
    begun: int = 0

    def lead(self) -> tuple[OverSsh, int] | None:
        """Who took the lead last, with which epoch."""
        said = lines_of(self.directory / "leads")
        return (self.both[str(said[-1]["who"])], int(said[-1]["epoch"])) if said else None

    def feed(self, store: Store) -> None:
        """One rollout is open."""
        with store.reading() as tx:
            if tx.rollouts(limit=1, open_only=True):
                return
        self.begun += 1
        begin(store, f"ro-{self.begun:05d}")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    server = Server()
    with ssh_hosts(1) as group:
        directory = tmp_path / "o"
        directory.mkdir()
        both: dict[str, OverSsh] = {}
        try:
            server.create().start()
            url = server.url(server.new_database())
            Store.open(url).close()
            host = SshHost(group, directory)
            installed = host.play("install", "deploy.yml", "ro-0", 0)
            assert installed.succeeded and host.play("installed", "drain.yml", "ro-0", 0).succeeded, installed
            for name in ("ann", "bob"):
                (directory / name).mkdir()
                both[name] = OverSsh(url, directory, name, TTL_S, group=group)
                both[name].start()
            yield Stage(url, host, directory, both)
        finally:
            for one in both.values():
                one.kill()
            server.remove()


def test_nothing_of_an_old_epoch_is_begun_on_the_host(
    stage: Stage, chance: random.Random, counted: Callable[[str], None]
) -> None:
    store = Store.open(stage.url)
    late: list[Json] = []
    with_playbook = refused_at_once = 0
    for stop in range(STOPS):
        one, epoch, groups = _stopped_at_work(stage, store, chance, frozen=stop % 2 == 0)
        with_playbook += bool(groups)
        try:
            until(partial(_acted_after, stage, epoch), 180)
            CLOCK.sleep(chance.random())
        finally:
            for group in groups:
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGCONT)
            one.tell(signal.SIGCONT)
        until(partial(_ended, groups), 180)
        old = stage.host.play(f"late-{stop}", "drain.yml", f"ro-{stage.begun}", epoch)
        refused_at_once += old.status == "fenced"
        late += _late(stage.host.journal_lines(), epoch)
    until(lambda: not _open(store), 240)
    whole = found(store, stage.host)
    store.close()
    refused = sum(line["event"] == "refused" for line in stage.host.journal_lines())
    counted(
        f"PostgreSQL, an SSH host: {STOPS} stops beyond the lease in the middle of a playbook, {with_playbook} of them "
        f"with the playbook: {len(late)} steps of an old epoch begun after a newer one, {refused} refused there; "
        f"{whole.rollouts} rollouts, {whole.promoted} promoted, {whole.operations} operations each once, "
        f"{whole.audit} audit rows, log and tree whole"
    )
    assert late == []
    assert refused_at_once == STOPS
    assert whole.promoted == whole.rollouts >= 1
    assert _twice(stage.host.journal_lines()) == []


def _stopped_at_work(
    stage: Stage, store: Store, chance: random.Random, *, frozen: bool
) -> tuple[OverSsh, int, list[int]]:
    """The leader, stopped at a random moment of a playbook of its; ``frozen``: the playbook with it."""

    def at_work() -> tuple[OverSsh, int] | None:
        stage.feed(store)
        lead = stage.lead()
        return lead if lead and lead[0].playbooks() else None

    while True:
        one, epoch = until(at_work, 180, 0.02)
        CLOCK.sleep(chance.random() * 1.5)
        groups = one.playbooks()
        if not groups or stage.lead() != (one, epoch):
            continue
        one.tell(signal.SIGSTOP)
        if not frozen:
            return one, epoch, []
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGSTOP)
        return one, epoch, groups


def _acted_after(stage: Stage, epoch: int) -> bool:
    return any(line["epoch"] > epoch for line in stage.host.journal_lines())


def _ended(groups: list[int]) -> bool:
    return not any(alive(group) for group in groups)


def _late(journal: list[Json], epoch: int) -> list[Json]:
    """What was begun for this epoch or an older one after a newer one had acted."""
    newer = [number for number, line in enumerate(journal) if line["epoch"] > epoch]
    after = journal[newer[0] :] if newer else []
    return [line for line in after if line["epoch"] <= epoch and line["event"] == "begin"]


def _open(store: Store) -> bool:
    with store.reading() as tx:
        return bool(tx.rollouts(limit=1, open_only=True))


def _twice(journal: list[Json]) -> list[tuple[str, str]]:
    effects = Counter((line["op"], line["step"]) for line in journal if line["event"] in ("done", "reconciled"))
    return [step for step, times in effects.items() if times > 1]
