"""The control plane of today over what the release before left: its database, its gateway's table, its replicas.

All is real but the hosts, where small servers stand in for engines (see ``stand_in``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from older import FIXTURES, Json, Rows, open_rollout, restore, rows
from running_stack import MODELS, REPOSITORY, RunningStack, free_ports
from stand_in import StandInHost, StandInStack, stop_driving

from stack.app import open_operator, wiring
from stack.cli.setup import prepare
from stack.config.home import Home, Ports
from stack.core.digest import Digest
from stack.gateway.table import RoutingTable
from stack.registry.admit import register
from stack.registry.manifest import load_manifest
from stack.registry.store import ContentStore
from stack.rollout import planner


@dataclass
class Host(StandInHost):
    """Remembers which replicas it started and stopped, in order."""

    told: list[str] = field(default_factory=list)

    def _start(self, replica: str, wanted: Json) -> None:
        self.told.append(f"start {replica}")
        super()._start(replica, wanted)

    def end(self, replica: str) -> None:
        self.told.append(f"stop {replica}")
        super().end(replica)


@dataclass
class OlderStack:
    """``was``: the open rollout's state as it was found; ``before``: the whole database."""

    made: StandInStack
    host: Host
    before: Rows
    was: Json


def stack_file(folder: Path, environment: str = "dev") -> Path:
    """The stack file of the release before, with the policies that this one wants beside it."""
    for suite in ("smoke", "eval"):
        (folder / f"{suite}.yaml").write_bytes((FIXTURES / f"{suite}.yaml").read_bytes())
    text = (FIXTURES / "stack.yaml").read_text().replace("@MODELS@", str(MODELS))
    text = text.replace("environment: dev", f"environment: {environment}")
    path = folder / "stack.yaml"
    path.write_text(f"policies: {REPOSITORY / 'policies'}\n{text}")
    return path


def home_of(folder: Path, name: str) -> tuple[Home, Rows]:
    """The state directory: the database with its rollout, and the models."""
    home = Home(folder / "home")
    prepare(home)
    restore(name, home.database)
    content = ContentStore(home.content)
    content.prepare()
    for version in ("1.0", "1.1"):
        register(load_manifest(MODELS / f"tiny-{version}.yaml"), "gguf", content)
    return home, rows(home.database)


@contextmanager
def older_stack(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, same_playbooks: bool, placed: bool = True
) -> Iterator[OlderStack]:
    """Not driving yet. ``placed``: what PLACING was killed in had been done by the host."""
    home, before = home_of(folder, name)
    was = open_rollout(before)
    one, two = free_ports(2)
    files = RunningStack(home.root, stack_file(folder), one, two)
    host = Host()
    monkeypatch.setattr(wiring, "AnsibleDoor", lambda **_: host)
    if same_playbooks:
        planned = next(plan for plan in before["plans"] if plan["digest"] == was["plan"])
        digest = Digest(json.loads(planned["body"])["playbooks"])
        monkeypatch.setattr(planner, "playbooks_digest", lambda root: digest)
    with open_operator(home, files.stack_yaml, Ports(gateway=one, admin=two)) as operator:
        made = StandInStack(files, host, operator)
        try:
            start_replicas(made, host, was, placed)
            made.start_gateway()
            if before["routing_tables"]:
                newest = max(before["routing_tables"], key=lambda row: row["version"])
                files.control.put_table(RoutingTable.from_json(json.loads(newest["body"])))
            yield OlderStack(made, host, before, was)
        finally:
            stop_driving(operator)
            made.kill_gateway()
            for replica in list(host.running):
                host.end(replica)


def start_replicas(made: StandInStack, host: Host, was: Json, placed: bool) -> None:
    """What ran when the program was killed goes on running."""
    own = {place["replica"] for place in was["placements"]}
    with made.operator.store.reading() as tx:
        live = tx.replicas(live_only=True)
        releases = {row.release: tx.release(row.release) for row in live}
    for row in live:
        if row.id in own and was["phase"] == "placing":
            if not placed:
                continue
            host.done.add(f"{was['id']}.start-{row.host}-{row.id[-1]}.{was['attempt']}")
        release = releases[row.release]
        host._start(
            str(row.id),
            {
                "port": row.port,
                "served_model": release.served_model,
                "artifact_digest": str(release.artifact),
                "release_digest": str(release.digest),
            },
        )
    host.told.clear()
