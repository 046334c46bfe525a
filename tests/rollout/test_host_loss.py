"""Hosts that fail while a release is placed: put up with as far as the settings say, named, cleaned, left out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_worker import CLOCK, NEW, begin

from stack.core.errors import Refused
from stack.core.names import HostName
from stack.fleet.values import Host, Operation, OperationResult
from stack.rollout.hosts import HostOperationFailed, Hosts, ReplicaNotWarm, replica_id
from stack.rollout.machine import CLEANING_ATTEMPTS, Done, Failed, ServiceView, step
from stack.rollout.room import Room
from stack.rollout.state import Phase, Placement, RolloutState
from stack.rollout.tables import placed, recast
from stack.runtimes.warm import NeverReady
from stack.store.store import Store


@dataclass
class Door:
    """Fails on some hosts; remembers what was done where."""

    failing: frozenset[str]
    status: str = "unreachable"
    done: list[tuple[str, str]] = field(default_factory=list)

    def run(self, op: Operation, **_: object) -> OperationResult:
        self.done.append((op.playbook, op.host.name))
        if op.host.name in self.failing:
            return OperationResult(status=self.status, message="no route")  # type: ignore[arg-type]
        row = {"id": op.variables["replica_id"], "state": "running", "release_digest": str(NEW.digest)}
        return OperationResult(status="done", observed={"replicas": [row]})


class Context:
    epoch = 1

    def __init__(self) -> None:
        self.told: list[str] = []

    def tell(self, kind: str, text: str, **data: Any) -> None:
        self.told.append(text)

    def evidence(self, kind: str, body: Any) -> None:
        return None

    def check(self) -> None:
        return None

    def writing(self, store: Store) -> Any:
        return store.transaction()


def started(tmp_path: Path, count: int, failing: set[int], tolerate: int) -> tuple[Any, Door, Context, Any]:
    names = [HostName(f"h{n}") for n in range(count)]
    places = tuple(Placement(replica=replica_id("tiny", "a", h, 0), host=h, port=20000) for h in names)
    store = Store.open(tmp_path / "state.db", CLOCK)
    rollout = begin(store)
    door, context = Door(frozenset(f"h{n}" for n in failing)), Context()
    settings: Any = SimpleNamespace(
        hosts=names, rollout=SimpleNamespace(tolerate_hosts=tolerate, timeouts=SimpleNamespace(place_s=5.0))
    )
    hosts = Hosts(
        store=store,
        door=door,  # type: ignore[arg-type]
        content=SimpleNamespace(materialise=lambda _: tmp_path),  # type: ignore[arg-type]
        services={"tiny": settings},  # type: ignore[dict-item]
        inventory={h: Host(name=h, root="/opt/stack") for h in names},
        clock=CLOCK,
    )
    with store.reading() as tx:
        state = RolloutState.from_json(dict(tx.rollout(rollout).state))
    state = replace(state, phase=Phase.PLACING, placements=places)
    with store.transaction() as tx:
        for row in placed(state, (), CLOCK.now()):
            tx.put_replica(row)
    try:
        return hosts.start(state, context), door, context, (store, state)  # type: ignore[arg-type]
    except HostOperationFailed as error:
        return error, door, context, (store, state)


@pytest.mark.parametrize(
    ("count", "failing", "tolerate", "left"),
    [
        (3, {1}, 1, 2),
        (3, {1}, 0, None),
        (3, {0, 2}, 1, None),
        (3, {0, 2}, 2, 1),
        (1, {0}, 5, None),
        (3, {0, 1, 2}, 9, None),
    ],
)
def test_as_many_as_the_settings_put_up_with(
    tmp_path: Path, count: int, failing: set[int], tolerate: int, left: int | None
) -> None:
    outcome, door, context, (store, state) = started(tmp_path, count, failing, tolerate)
    if left is None:
        assert isinstance(outcome, HostOperationFailed)
        assert outcome.facts["host"] in {f"h{n}" for n in failing}
    else:
        assert len(outcome) == left
        assert not {p.host for p in outcome} & {f"h{n}" for n in failing}
        assert {host for playbook, host in door.done if playbook == "drain.yml"} == {f"h{n}" for n in failing}
        assert all(any(f"h{n} is left out" in text for text in context.told) for n in failing)
        after = replace(state, phase=Phase.WARMING, placements=outcome)
        with store.reading() as tx:
            rows = tx.replicas(service="tiny")
        lost = {r.id for r in recast(Phase.PLACING, after, rows) if (r.state, r.slice) == ("draining", "retired")}
        assert lost == {p.replica for p in state.placements if p not in outcome}
    store.close()


@pytest.mark.parametrize(("there", "silent", "left"), [(3, {1}, 2), (3, {1, 2}, None), (2, {1}, None), (3, set(), 3)])
def test_a_host_that_goes_away_before_it_is_warm_is_put_up_with_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: int, silent: set[int], left: int | None
) -> None:
    """One of three may fail, and one that was left out before counts."""
    names = [HostName(f"h{n}") for n in range(3)]
    places = tuple(Placement(replica=replica_id("tiny", "a", h, 0), host=h, port=20000) for h in names[:there])
    door, context = Door(frozenset(f"h{n}" for n in silent)), Context()
    settings: Any = SimpleNamespace(hosts=names, rollout=SimpleNamespace(tolerate_hosts=1))
    inventory = {h: Host(name=h, root="/opt/stack") for h in names}
    parts: Any = {"store": None, "content": None, "clock": CLOCK}
    hosts = Hosts(door=door, services={"tiny": settings}, inventory=inventory, **parts)  # type: ignore[arg-type]

    def one(_self: Hosts, _state: RolloutState, place: Placement, *_: object) -> None:
        if place.host in door.failing:
            raise NeverReady("it is silent", model="tiny", deadline_s=1)

    monkeypatch.setattr(Hosts, "_warm", one)
    monkeypatch.setattr(Hosts, "_measure", lambda *_: None)
    monkeypatch.setattr(Hosts, "release", lambda *_: NEW)
    store = Store.open(tmp_path / "state.db", CLOCK)
    rollout = begin(store)
    with store.reading() as tx:
        state = RolloutState.from_json(dict(tx.rollout(rollout).state))
    store.close()
    state = replace(state, phase=Phase.WARMING, placements=places)
    if left is None:
        with pytest.raises(NeverReady):
            hosts.warm(state, context)  # type: ignore[arg-type]
        return
    warm = hosts.warm(state, context)  # type: ignore[arg-type]
    after = step(state, ServiceView(), Done(placements=warm)).state
    assert (after.phase, len(after.placements)) == (Phase.SMOKING, left)
    assert {host for _, host in door.done} == {f"h{n}" for n in silent}
    assert all(any(f"h{n} is left out" in text for text in context.told) for n in silent)


def test_a_replica_that_never_gets_warm_is_named_with_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise NeverReady("it is silent", model="tiny", seconds=1)

    monkeypatch.setattr("stack.rollout.hosts.wait_ready", never)
    monkeypatch.setattr(Hosts, "release", lambda *_: NEW)
    timeouts = SimpleNamespace(ready_s=1.0, warm_s=1.0)
    services: Any = {"tiny": SimpleNamespace(rollout=SimpleNamespace(timeouts=timeouts))}
    places = (Placement(replica=replica_id("tiny", "a", "h2", 0), host=HostName("h2"), port=20000),)
    parts: Any = {"store": None, "content": None, "door": None, "clock": CLOCK}
    hosts = Hosts(services=services, inventory={HostName("h2"): Host(name=HostName("h2"), root="/opt/stack")}, **parts)
    state: Any = SimpleNamespace(service="tiny", release=NEW.digest, placements=places, swap=None)
    with pytest.raises(ReplicaNotWarm) as failed:
        hosts._warm(state, places[0], NEW, Context())  # type: ignore[arg-type]
    assert failed.value.message == f"Replica {places[0].replica} on host h2: {failed.value.detail}"
    assert "it is silent" in failed.value.detail
    assert failed.value.advice == NeverReady.hint


@pytest.mark.parametrize("phase", [Phase.RETIRING, Phase.CLEANING])
def test_what_is_not_known_to_have_ended_is_left_for_the_next_rollout(tmp_path: Path, phase: Phase) -> None:
    """Its host does not answer. It is neither routed to nor forgotten."""
    _, _, _, (store, state) = started(tmp_path, 3, set(), 0)
    going = replace(state, phase=phase, attempt=CLEANING_ATTEMPTS, retire=state.placements)
    left = state.placements[1].replica
    role = "retired" if phase is Phase.RETIRING else "candidate"
    with store.reading() as tx:
        rows = [replace(row, state="ready", slice=role) for row in tx.replicas(service="tiny")]
    store.close()
    end = step(going, ServiceView(), Failed(reason="silent", left=(left,))).state
    assert end.phase.final
    assert end.notes == ("needs an operator: silent",)
    after = {row.id: (row.state, row.slice, row.live) for row in recast(phase, end, rows)}
    assert after.pop(left) == ("draining", "retired", True)
    assert set(after.values()) == {("stopped", "retired", False)}
    assert len(after) == 2


@given(st.text("ab-", min_size=1, max_size=63), st.integers(0, 63), st.integers(0, 63))
def test_replica_ids_never_meet(host: str, one: int, other: int) -> None:
    first, second = replica_id("tiny" * 10, "0123456789", host, one), replica_id("tiny" * 10, "0123456789", host, other)
    assert (first == second) is (one == other)
    assert first.rpartition("-")[2] == str(one)


class Asked(Door):
    """Hosts that say what they are: ``free`` bytes of memory, or nothing at all."""

    def __init__(self, free: dict[str, int | None]) -> None:
        super().__init__(frozenset())
        self.free = free
        self.disk = 1 << 40

    def run(self, op: Operation, **_: object) -> OperationResult:
        assert op.playbook == "facts.yml"
        free = self.free[op.host.name]
        if free is None:
            return OperationResult(status="unreachable", message="no route")
        said = {
            "memory": {"total": free, "available": free},
            "disk": {"free": self.disk, "writable": True},
            "accelerators": [],
            "cpus": 2,
            "architecture": "x86_64",
            "system": "",
            "python": "3.11.2",
            "service_manager": "systemd",
            "user": 0,
            "clock_s": CLOCK.now().timestamp(),
            "libc": "glibc 2.36",
            "environments": True,
            "open_files": 1 << 20,
            "after_reboot": "systemd",
        }
        return OperationResult(status="done", observed={"facts": said})


@pytest.mark.parametrize(
    ("free", "tolerate", "left"),
    [
        ({"h0": 8 << 30, "h1": 8 << 30}, 0, ["h0", "h1"]),
        ({"h0": 8 << 30, "h1": 1 << 20}, 0, "h1: "),
        ({"h0": 8 << 30, "h1": 1 << 20}, 1, ["h0"]),
        ({"h0": None, "h1": 8 << 30}, 0, "h0: Host h0 does not say"),
        ({"h0": None, "h1": 8 << 30}, 1, ["h1"]),
        ({"h0": None, "h1": 1 << 20}, 9, "h0"),
    ],
)
def test_other_hosts_are_asked_whether_it_fits_there(
    monkeypatch: pytest.MonkeyPatch, free: dict[str, int | None], tolerate: int, left: object
) -> None:
    hosts, settings = asking(monkeypatch, Asked(free), tolerate)
    if isinstance(left, str):
        with pytest.raises(Refused, match=left):
            hosts._fitting(NEW, settings, Context())  # type: ignore[arg-type]
    else:
        assert list(hosts._fitting(NEW, settings, Context())) == left  # type: ignore[arg-type]


def test_a_full_disk_is_named_in_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Asked({"h0": 8 << 30, "h1": 8 << 30})
    door.disk = 20 << 20
    hosts, settings = asking(monkeypatch, door, 1)
    with pytest.raises(Refused) as refused:
        hosts._fitting(NEW, settings, Context())  # type: ignore[arg-type]
    why = "only 20 MiB of disk are free"
    assert refused.value.message == f"Refused: h0: {why}; h1: {why}"


def asking(monkeypatch: pytest.MonkeyPatch, door: Asked, tolerate: int) -> tuple[Hosts, Any]:
    """Hosts that are asked, and the settings of a service on all of them."""
    monkeypatch.setattr("stack.rollout.room.preflight_fit", _fits_in_a_gigabyte)
    monkeypatch.setattr("stack.rollout.room.earlier_loads", lambda *_: ())
    monkeypatch.setattr(Room, "model", lambda *_: None)
    names = tuple(HostName(name) for name in door.free)
    hosts = Hosts(
        store=SimpleNamespace(),  # type: ignore[arg-type]
        door=door,  # type: ignore[arg-type]
        content=SimpleNamespace(),  # type: ignore[arg-type]
        services={},
        inventory={h: Host(name=h, root="/opt/stack", connection="ssh", address="10.0.0.1") for h in names},
        clock=CLOCK,
    )
    rollout = SimpleNamespace(tolerate_hosts=tolerate)
    return hosts, SimpleNamespace(hosts=names, replicas=1, rollout=rollout)


def _fits_in_a_gigabyte(model: object, release: object, *, available: int | None, **_: object) -> Any:
    fits = available is not None and available >= 1 << 30
    return SimpleNamespace(fits=fits, reason=f"{available} free", to_json=dict)
