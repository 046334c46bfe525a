"""Who lost the lead writes nothing: each write of a worker's threads is checked in its own transaction."""

from __future__ import annotations

import ast
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_worker import CLOCK, NEW, OLD, begin

import stack.rollout
from stack.app.policy_watch import PolicyWatch
from stack.config.policies import NoPolicies
from stack.core.names import HostName, ReplicaId, ServiceName
from stack.fleet.values import Host, Operation, OperationResult
from stack.rollout.hosts import Hosts
from stack.rollout.reconcile import Reconciler
from stack.rollout.routing_push import RoutePusher
from stack.rollout.tenure import LEASE, Interrupted, Leadership
from stack.rollout.waiting import Waiting
from stack.store.rows import ReplicaRow
from stack.store.store import Store

NOTHING: Any = None
ROW = ReplicaRow(
    id=ReplicaId("tiny-a"),
    service=ServiceName("tiny"),
    release=NEW.digest,
    host=HostName("h"),
    port=20000,
    state="ready",
    slice="stable",
    updated_at=CLOCK.now(),
)
PLACE: Any = SimpleNamespace(replica=ROW.id, host=ROW.host, port=ROW.port)


class Door:
    """A host on which everything succeeds; ``meanwhile`` happens before its answer is here."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.meanwhile = meanwhile

    def run(self, op: Operation, **_: object) -> OperationResult:
        self.meanwhile()
        row = {"id": str(ROW.id), "state": "running", "release_digest": str(OLD.digest)}
        return OperationResult(status="done", observed={"replicas": [row]})


class Context:
    """Of no rollout, under a lead."""

    def __init__(self, lead: Leadership) -> None:
        self.lead, self.epoch, self.writing = lead, lead.lease.epoch, lead.writing

    def tell(self, kind: str, text: str, **data: Any) -> None:
        return None

    def evidence(self, kind: str, body: Any) -> None:
        return None

    def check(self) -> None:
        if self.lead.gone.is_set():
            raise Interrupted()


def leading(store: Store, holder: str = "old", ttl_s: float = 60.0) -> Leadership:
    with store.transaction() as tx:
        lease = tx.acquire_lease(LEASE, holder, ttl_s)
    assert lease is not None
    return Leadership(lease=lease, gone=threading.Event())


def taken_over(store: Store) -> None:
    """Another has the lead."""
    with store.transaction() as tx:
        tx.release_holder(LEASE, "old")
        assert tx.acquire_lease(LEASE, "new", 60.0) is not None


def hosts(store: Store, tmp_path: Path, door: Door) -> Hosts:
    settings: Any = SimpleNamespace(rollout=SimpleNamespace(timeouts=SimpleNamespace(place_s=5.0)))
    return Hosts(
        store=store,
        door=door,  # type: ignore[arg-type]
        content=SimpleNamespace(materialise=lambda _: tmp_path),  # type: ignore[arg-type]
        services={ROW.service: settings},
        inventory={ROW.host: Host(name=ROW.host, root="/opt/stack")},
        clock=CLOCK,
    )


def note_of_a_host(store: Store, lead: Leadership, tmp_path: Path) -> None:
    hosts(store, tmp_path, Door())._note(ROW.id, {"release_digest": str(OLD.digest)}, Context(lead))


def replica_started(store: Store, lead: Leadership, tmp_path: Path) -> None:
    hosts(store, tmp_path, Door()).ensure(NOTHING or "op", "rollback.yml", NEW.digest, PLACE, Context(lead))  # type: ignore[arg-type]


def table(store: Store, lead: Leadership, _tmp_path: Path) -> None:
    control: Any = SimpleNamespace(health=dict, put_table=lambda new: new.version)
    routes = RoutePusher(store=store, control=control, keys=[], limits={}, addresses={"h": "127.0.0.1"})
    routes.push(lead.writing)


def table_again(store: Store, lead: Leadership, _tmp_path: Path) -> None:
    control: Any = SimpleNamespace(health=dict, put_table=lambda new: new.version)
    routes = RoutePusher(store=store, control=control, keys=[], limits={}, addresses={"h": "127.0.0.1"})
    routes.converge(lead.writing)


def request_for_approval(store: Store, lead: Leadership, _tmp_path: Path) -> None:
    authority: Any = SimpleNamespace(
        looks=lambda tx, state: [SimpleNamespace(kept=False)],
        asks=lambda tx, state: tx.raise_alert("X-1", "info", "asked", "s", {}, CLOCK.now()),
    )
    waiting = Waiting(store=store, control=NOTHING, services={}, authority=authority, clock=CLOCK)
    waiting._asked(NOTHING, Context(lead))


def policies_in_force(store: Store, lead: Leadership, tmp_path: Path) -> None:
    def gone() -> Any:
        raise NoPolicies(folder=str(tmp_path))

    PolicyWatch(store, gone, CLOCK).tick(lead.writing)


def revival(store: Store, lead: Leadership, tmp_path: Path) -> None:
    authority: Any = SimpleNamespace(may_restore=lambda *_: "not now")
    known = hosts(store, tmp_path, Door())
    reconciler = Reconciler(
        store=store, hosts=known, routes=NOTHING, authority=authority, inventory=known.inventory, clock=CLOCK
    )
    object.__setattr__(reconciler, "_healthy", lambda row: False)
    with pytest.raises(AttributeError):  # without a gateway: the table comes after the replicas
        reconciler.on_lead(lead)


WRITES = (note_of_a_host, replica_started, table, table_again, request_for_approval, policies_in_force, revival)


def rows(tmp_path: Path) -> list[str]:
    with sqlite3.connect(tmp_path / "state.db") as wire:
        return [line for line in wire.iterdump() if '"leases"' not in line and "leases" not in line]


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_no_write_of_a_lead_that_is_over(write: Callable[[Store, Leadership, Path], None], tmp_path: Path) -> None:
    store = Store.open(tmp_path / "state.db", CLOCK)
    begin(store)
    with store.transaction() as tx:
        tx.put_replica(ROW)
    lead = leading(store)
    before = rows(tmp_path)
    taken_over(store)
    with pytest.raises(Interrupted):
        write(store, lead, tmp_path)
    assert rows(tmp_path) == before
    assert lead.gone.is_set()
    write(store, leading(store, "new"), tmp_path)
    assert rows(tmp_path) != before, "the same under a lead that lasts is written"
    store.close()


def test_what_a_stopped_process_learned_of_a_host_is_not_written_once_another_leads(tmp_path: Path) -> None:
    """It stops between the host's answer and the note of it: the moment in which only the transaction can tell."""
    store = Store.open(tmp_path / "state.db", CLOCK)
    begin(store)
    with store.transaction() as tx:
        tx.put_replica(ROW)
    store.close()
    child = os.fork()
    if child == 0:
        os._exit(_stops_at_the_answer(tmp_path))
    _, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status), status
    store = Store.open(tmp_path / "state.db", CLOCK)
    taken_over(store)
    before = rows(tmp_path)
    os.kill(child, signal.SIGCONT)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7, "interrupted"
    assert rows(tmp_path) == before
    store.close()


def _stops_at_the_answer(tmp_path: Path) -> int:
    try:
        store = Store.open(tmp_path / "state.db", CLOCK)
        lead = leading(store)
        door = Door(lambda: os.kill(os.getpid(), signal.SIGSTOP))
        hosts(store, tmp_path, door).ensure("op", "rollback.yml", NEW.digest, PLACE, Context(lead))  # type: ignore[arg-type]
    except Interrupted:
        return 7
    return 0


UNDER_NO_LEAD = {
    "tenure.writing": "checks the lease",
    "worker._commit": "save_rollout checks the lease",
    "worker._acquire": "takes the lease",
    "worker._release": "gives its own back",
    "worker._keep": "renews its own",
    "restarting.give_up": "checks the lease",
    "restarting.restart": "checks the lease",
    "restarting._begin": "checks the lease",
    "gatekeeper.record": "what a person was refused, on any control plane",
}


def test_no_other_place_writes_without_a_lead() -> None:
    """A new ``transaction()`` in this room goes under a lead, or is named here with the reason why it need not."""
    found = set()
    for path in Path(stack.rollout.__path__[0]).glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                calls = (node for node in ast.walk(function) if isinstance(node, ast.Attribute))
                found |= {f"{path.stem}.{function.name}" for call in calls if call.attr == "transaction"}
    assert found == set(UNDER_NO_LEAD)
