"""Restarts by the monitor: on record, by policy, under the lease, bounded, and never against a rollout."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from approving import Office
from test_worker import OLD

from stack.core.names import HostName, ReplicaId, RolloutId, ServiceName
from stack.fleet.values import Host, Operation, OperationResult
from stack.rollout import restarting
from stack.rollout.authority import Authority
from stack.rollout.monitor import PROBES, Monitor, Watch, Watched, outcome_of
from stack.rollout.restarting import ALERT, BEGUN, GIVEN_UP, RESTART, Restarter, Underway, serving
from stack.rollout.state import Placement, RolloutState
from stack.rollout.tenure import LEASE, Leadership
from stack.rollout.wellness import Condition, Limits, Outcome, first_seen
from stack.runtimes.health import Health
from stack.store.rows import ReplicaRow, RolloutRow, ServiceRow

ILL = replace(
    first_seen(0.0), condition=Condition.SICK, reason="wedged", failed=3, failing_since=0.0, outcome=Outcome.LATE
)


@dataclass
class FakeHosts:
    """Notes what is done on hosts. ``on``: called before an operation takes effect."""

    office: Office
    done: list[str] = field(default_factory=list)
    on: Callable[[str], None] = lambda _: None
    status: str = "done"
    observed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inventory(self) -> dict[HostName, Host]:
        return {HostName("local"): Host(name=HostName("local"), root="/x", python="", connection="local")}

    @property
    def services(self) -> dict[ServiceName, Any]:
        return {}

    @property
    def door(self) -> Any:
        return self

    def run(self, op: Operation, cancelled: Callable[[], bool] = lambda: False) -> OperationResult:
        self.on(op.playbook)
        self.done.append(op.playbook)
        return OperationResult(status=self.status, observed=self.observed, message="said so")  # type: ignore[arg-type]

    def ensure(self, op_id: object, playbook: str, digest: object, place: Placement, context: object) -> None:
        self.on(playbook)
        self.done.append(playbook)

    def release(self, digest: object) -> Any:
        return OLD


@dataclass
class Room:
    """A store with one stable replica, held by a lease."""

    office: Office
    hosts: FakeHosts
    restarter: Restarter
    lead: Leadership
    row: ReplicaRow

    @property
    def context(self) -> Underway:
        return Underway(lead=self.lead, stop=threading.Event())

    def recorded(self) -> list[tuple[str, str]]:
        with self.office.store.reading() as tx:
            return [(r.action, r.result) for r in tx.audit_of(str(self.row.id))]

    def recast(self, slice_name: str) -> None:
        with self.office.store.transaction() as tx:
            tx.put_replica(replace(self.row, slice=slice_name))

    def watch(self) -> Watch:
        store, clock = self.office.store, self.office.clock
        control: Any = SimpleNamespace(path=self.office.root / "no.sock")
        hosts: Any = self.hosts
        monitor = Monitor(store=store, control=control, hosts=hosts, authority=self.restarter.authority, clock=clock)
        return Watch(monitor, self.lead, threading.Event())


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setattr(restarting, "wait_ready", lambda *_, **__: None)
    office = Office.made(tmp_path)
    now = office.clock.now()
    row = ReplicaRow(
        id=ReplicaId("tiny-a"),
        service=ServiceName("tiny"),
        release=OLD.digest,
        host=HostName("local"),
        port=20001,
        state="ready",
        slice="stable",
        updated_at=now,
    )
    with office.store.transaction() as tx:
        tx.put_release(OLD)
        tx.put_service(ServiceRow(name=row.service, stable=OLD.digest, updated_at=now, environment="dev"))
        tx.put_replica(row)
        lease = tx.acquire_lease(LEASE, "here", 1e7)
    assert lease is not None
    hosts: Any = FakeHosts(office)
    reports: Any = None
    authority = Authority(gatekeeper=office.gatekeeper, reports=reports, environment_of_stack="dev", clock=office.clock)
    made = Restarter(store=office.store, hosts=hosts, authority=authority, clock=office.clock, limits=Limits())
    yield Room(office, hosts, made, Leadership(lease=lease, gone=threading.Event()), row)
    office.store.close()


def test_it_is_ended_and_started_and_both_are_on_record(room: Room) -> None:
    room.restarter.restart(room.row, ILL, room.context)
    assert room.hosts.done == ["drain.yml", "rollback.yml"]
    assert room.recorded() == [(RESTART, BEGUN), (RESTART, "ok")]
    with room.office.store.reading() as tx:
        body = tx.audit_of(str(room.row.id))[0].body
    assert (body["reason"], body["outcome"], body["failed_probes"]) == ("wedged", "late", 3)


def test_a_rollout_that_retires_it_before_the_start_is_not_fought(room: Room) -> None:
    room.hosts.on = lambda playbook: room.recast("retired") if playbook == "drain.yml" else None
    room.restarter.restart(room.row, ILL, room.context)
    assert room.hosts.done == ["drain.yml"]
    assert room.recorded()[-1][1].startswith("stopped; not started again")


def test_a_rollout_that_retires_it_during_the_start_finds_it_stopped(room: Room) -> None:
    room.hosts.on = lambda playbook: room.recast("retired") if playbook == "rollback.yml" else None
    room.restarter.restart(room.row, ILL, room.context)
    assert room.hosts.done == ["drain.yml", "rollback.yml", "drain.yml"]
    assert room.recorded()[-1][1].startswith("stopped again")


@pytest.mark.parametrize("slice_name", ["candidate", "retired"])
def test_who_does_not_serve_is_left_alone(room: Room, slice_name: str) -> None:
    room.recast(slice_name)
    room.restarter.restart(room.row, ILL, room.context)
    assert (room.hosts.done, room.recorded()) == ([], [])


def test_a_replica_in_the_hands_of_an_open_rollout_is_left_to_it(room: Room) -> None:
    now = room.office.clock.now()
    place = Placement(replica=room.row.id, host=room.row.host, port=room.row.port)
    state = RolloutState(
        id=RolloutId("ro-abcdefghjk"),
        service=room.row.service,
        kind="rollback",
        plan=OLD.digest,
        release=OLD.digest,
        stable=OLD.digest,
        lkg=OLD.digest,
        ladder=(100,),
        placements=(place,),
    )
    row = RolloutRow(
        id=state.id,
        service=state.service,
        kind=state.kind,
        phase=str(state.phase),
        state=state.to_json(),
        version=1,
        lease_epoch=0,
        created_at=now,
        updated_at=now,
        closed=False,
    )
    with room.office.store.transaction() as tx:
        tx.insert_rollout(row)
    with room.office.store.reading() as tx:
        assert serving(tx) == ()
    room.restarter.restart(room.row, ILL, room.context)
    assert room.hosts.done == []


def test_who_lost_the_lease_does_and_writes_nothing(room: Room) -> None:
    with room.office.store.transaction() as tx:
        tx.release_holder(LEASE, "here")
        tx.acquire_lease(LEASE, "there", 1e7)
    room.restarter.restart(room.row, ILL, room.context)
    assert (room.hosts.done, room.recorded()) == ([], [])
    assert room.lead.gone.is_set()


def test_a_process_that_stops_starts_nothing_any_more(room: Room) -> None:
    """``stackctl down`` in the middle of a restart."""
    context = room.context
    room.hosts.on = lambda _: context.stop.set()
    room.restarter.restart(room.row, ILL, context)
    assert room.hosts.done == ["drain.yml"]
    assert room.recorded()[-1][1].startswith("interrupted")


def test_policies_may_refuse_it_and_that_is_an_attempt(room: Room) -> None:
    (room.office.folder / "risk.yaml").write_text("[")
    room.restarter.restart(room.row, ILL, room.context)
    assert room.hosts.done == []
    assert [result == BEGUN for _, result in room.recorded()] == [True, False]


def test_a_host_that_does_not_stop_it_is_a_failed_attempt(room: Room) -> None:
    room.hosts.status = "unreachable"
    room.restarter.restart(room.row, ILL, room.context)
    assert room.hosts.done == ["drain.yml"]
    assert "could not be stopped" in room.recorded()[-1][1]


def test_three_attempts_then_one_alert_then_nothing_until_somebody_looked(room: Room) -> None:
    """Over many looks, and over a restart of the orchestrator: the log knows what was tried."""
    room.hosts.status = "unreachable"
    for _ in range(400):
        watch = room.watch()
        watch.watched = {room.row.id: Watched(replace(ILL, outcome=Outcome.WRONG))}
        watch._act({room.row.id: room.row}, set())
        thread = watch.watched[room.row.id].restart
        if thread is not None:
            thread.join(10)
        room.office.clock.advance(1.0)
    assert room.hosts.done == ["drain.yml"] * 3
    assert [found for found in room.recorded() if found[1] == BEGUN] == [(RESTART, BEGUN)] * 3
    assert [found for found in room.recorded() if found[0] == GIVEN_UP] == [(GIVEN_UP, "alert")]
    with room.office.store.reading() as tx:
        alert = tx.alerts(open_only=True)[0]
    assert (alert.code, alert.severity, alert.subject, alert.count) == (ALERT, "critical", "tiny-a", 1)
    with room.office.store.reading() as tx:
        held = room.restarter.held(tx, room.row)
    assert held is not None
    assert held.told
    with room.office.store.transaction() as tx:
        tx.close_alert(alert.id, "ann", room.office.clock.now())
    with room.office.store.reading() as tx:
        assert room.restarter.held(tx, room.row) is None


def test_one_of_a_service_at_a_time_the_dead_first(room: Room) -> None:
    rows = {ReplicaId(f"tiny-{n}"): replace(room.row, id=ReplicaId(f"tiny-{n}")) for n in "abc"}
    with room.office.store.transaction() as tx:
        for row in rows.values():
            tx.put_replica(row)
    go = threading.Event()

    def wait(_playbook: str) -> None:
        go.wait(10)

    room.hosts.on = wait
    watch = room.watch()
    outcomes = (Outcome.WRONG, Outcome.LATE, Outcome.DOWN)
    watch.watched = {i: Watched(replace(ILL, outcome=o)) for i, o in zip(rows, outcomes, strict=True)}
    watch._act(rows, set())
    begun = [i for i, w in watch.watched.items() if w.restart is not None]
    watch._act(rows, set(begun))
    assert [i for i, w in watch.watched.items() if w.restart is not None] == begun == ["tiny-c"]
    go.set()
    thread = watch.watched[begun[0]].restart
    assert thread is not None
    thread.join(10)


@pytest.mark.parametrize(
    ("found", "young"),
    [
        ({"state": "running", "pid": 7, "started_at": "2026-01-01T00:00:00.000000Z"}, True),
        ({"state": "running", "pid": 7, "started_at": None}, True),
        ({"state": "running", "pid": 7, "started_at": "yesterday"}, False),
        ({"state": "failed", "pid": None, "started_at": None}, False),
        ({"state": "backoff", "pid": None, "started_at": None}, False),
    ],
)
def test_the_host_says_whether_it_is_loading(room: Room, found: dict[str, Any], young: bool) -> None:
    room.hosts.observed = {"replicas": [{"id": "tiny-a", **found}]}
    room.office.clock.advance(5.0)
    watch = room.watch()
    state = watch._loading(room.row, replace(ILL, outcome=Outcome.DOWN), room.context)
    assert (state is not None and state.condition is Condition.LOADING) is young
    assert room.hosts.done == ["observe.yml"]


def health(**changed: Any) -> Health:
    said: dict[str, Any] = {"live": True, "listed": True, "answered": True, "reasons": (), "seconds": 0.1}
    return Health(**{**said, **changed})


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (health(), Outcome.GOOD),
        (health(notes=("busy, but emitting tokens",), seconds=5.0), Outcome.MOVING),
        (health(answered=False, reasons=("completion: no complete answer within 5 s",), seconds=5.0), Outcome.LATE),
        (health(live=False, reasons=("liveness: no complete answer",), seconds=6.0), Outcome.LATE),
        (health(live=False, reasons=("liveness: ConnectError",)), Outcome.DOWN),
        (health(answered=False, reasons=("completion: HTTP 503: busy",)), Outcome.DOWN),
        (health(answered=False, reasons=("completion: 200, but not a chat completion",)), Outcome.WRONG),
        (health(listed=False, reasons=("model list: it serves x, not y",)), Outcome.WRONG),
    ],
)
def test_what_a_check_proves(found: Health, outcome: Outcome) -> None:
    assert outcome_of(found, 0.0).outcome is outcome


def test_of_many_replicas_some_are_probed_in_a_look_those_in_doubt_first_and_none_is_forgotten(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = {f"tiny-{n}" for n in range(3 * PROBES - 1)} | {"tiny-a"}
    with room.office.store.transaction() as tx:
        for n in range(3 * PROBES - 1):
            tx.put_replica(replace(room.row, id=ReplicaId(f"tiny-{n}"), port=21000 + n))
    asked: list[str] = []

    def probe(watch: Watch, row: ReplicaRow, release: object, watched: Watched, now: float) -> None:
        asked.append(str(row.id))
        watched.asked_at = now

    monkeypatch.setattr(Watch, "_probe", probe)
    monkeypatch.setattr(Watch, "_counted", lambda self: None)
    watch = room.watch()
    looks = []
    for _ in range(3):
        watch.look()
        looks.append(asked[:])
        asked.clear()
        room.office.clock.advance(1)
    assert [len(look) for look in looks] == [PROBES] * 3
    assert set().union(*looks) == every
    room.office.clock.advance(5)
    doubted = looks[2][-1]
    for name, known in watch.watched.items():
        known.state = replace(known.state, condition=Condition.SUSPECT if name == doubted else Condition.WELL)
    watch.look()
    assert doubted in asked[:1] and len(asked) == PROBES and set(asked[1:]) <= set(looks[0])
