"""What replicas take: kept when it was measured, shown beside what was predicted, and learned from by the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stack.core.clock import ManualClock
from stack.core.digest import Digest
from stack.core.names import HostName, ReplicaId
from stack.core.release import Artifact, FileEntry, Launch, ModelVersion, Release, RuntimeVersion
from stack.fleet.facts import Accelerator, Facts
from stack.fleet.values import Host, OperationResult
from stack.rollout.hosts import Hosts
from stack.rollout.loads import earlier_loads, measured_bytes, predicted, room_for, taken
from stack.rollout.room import Room
from stack.rollout.state import Placement
from stack.runtimes.overhead import TABLE
from stack.store.store import Store, Transaction

MIB = 1 << 20
CLOCK = ManualClock()
HEADER = {"block_count": 4, "head_count": 4, "head_count_kv": 2, "embedding_length": 128, "context_length": 1024}
FILES = (FileEntry(path="model.gguf", size=MIB, sha256=Digest.of(b"x")),)
MODEL = ModelVersion(
    name="tiny",
    version="1",
    artifact=Artifact(format="gguf", digest=Artifact.digest_of(FILES), files=FILES),
    metadata=HEADER,
)
RELEASE = Release(
    service="tiny",
    model="tiny@1",
    artifact=MODEL.artifact.digest,
    artifact_format="gguf",
    runtime=RuntimeVersion(engine="llamacpp", distribution="xllamacpp", version="1", lock=Digest.of(b"one")),
    launch=Launch(),
)
NEXT = replace(RELEASE, runtime=replace(RELEASE.runtime, version="2", lock=Digest.of(b"two")))
GPU = replace(RELEASE, runtime=RuntimeVersion(engine="vllm", distribution="vllm", version="1", lock=Digest.of(b"v")))


class Context:
    epoch = 1

    def __init__(self) -> None:
        self.told: list[str] = []
        self.kept: list[tuple[str, dict[str, Any]]] = []

    def tell(self, kind: str, text: str, **data: Any) -> None:
        self.told.append(text)

    def evidence(self, kind: str, body: dict[str, Any]) -> None:
        self.kept.append((kind, body))

    def check(self) -> None:
        return None

    def writing(self, store: Store) -> AbstractContextManager[Transaction]:
        return store.transaction()


class Door:
    """Says of each replica what it takes; ``status``: how it answers."""

    def __init__(self, takes: dict[str, Any], status: str = "done") -> None:
        self.takes, self.status, self.asked = takes, status, []  # type: ignore[var-annotated]

    def run(self, op: Any, **_: object) -> OperationResult:
        self.asked.append((op.playbook, str(op.host.name), dict(op.variables)))
        rows = [{"id": name, "state": "running", **row} for name, row in self.takes.items()]
        return OperationResult(status=self.status, observed={"replicas": rows}, message="no route")  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(Room, "model", lambda *_: MODEL)
    opened = Store.open(tmp_path / "state.db", CLOCK)
    yield opened
    opened.close()


def place(name: str, host: str = "h1") -> Placement:
    return Placement(replica=ReplicaId(name), host=HostName(host), port=20000)


def measure(store: Store, door: Door, *places: Placement, release: Release = RELEASE) -> Context:
    context = Context()
    hosts = Hosts(
        store=store,
        door=door,  # type: ignore[arg-type]
        content=SimpleNamespace(),  # type: ignore[arg-type]
        services={},
        inventory={p.host: Host(name=p.host, root="/opt/stack") for p in places},
        clock=CLOCK,
    )
    state: Any = SimpleNamespace(placements=places, operation=lambda name: f"ro-1.{name}.1")
    hosts._measure(state, release, context)
    return context


def test_what_a_host_says_is_kept_and_shown_beside_what_was_predicted(store: Store) -> None:
    door = Door({"r1": {"memory_bytes": 60 * MIB, "accelerator_bytes": None}, "r2": {"memory_bytes": 61 * MIB}})
    context = measure(store, door, place("r1"), place("r2"), place("r3", "h2"))
    assert sorted(door.asked) == [("observe.yml", "h1", {"measure": True}), ("observe.yml", "h2", {"measure": True})]
    wanted = predicted(MODEL, RELEASE, ()).needed_bytes
    fits = {body["replica"]: body for kind, body in context.kept if kind == "fit"}
    assert {name: body["measured_bytes"] for name, body in fits.items()} == {
        "r1": 60 * MIB, "r2": 61 * MIB, "r3": None,
    }  # fmt: skip
    assert {body["predicted_bytes"] for body in fits.values()} == {wanted}
    assert fits["r1"]["overhead_source"] == "overhead from the table"
    said = f"r1 takes 60 MiB, {(wanted or 0) >> 20} MiB were predicted (overhead from the table)"
    assert said in context.told
    assert any("what r3 takes is not known" in text for text in context.told)
    with store.reading() as tx:
        assert taken(tx, ["r1", "r2", "r3"]) == {
            "r1": {"predicted_bytes": wanted, "measured_bytes": 60 * MIB},
            "r2": {"predicted_bytes": wanted, "measured_bytes": 61 * MIB},
        }


def test_the_next_release_of_the_runtime_is_predicted_by_what_was_measured(store: Store) -> None:
    for number in range(3):
        loads = earlier_loads(store, RELEASE)
        assert predicted(MODEL, RELEASE, loads).overhead_source != "overhead from 3 earlier loads"
        measure(store, Door({f"r{number}": {"memory_bytes": (30 + number) * MIB}}), place(f"r{number}"))
    other = replace(RELEASE, launch=Launch(context=512, parallel=2))
    found = predicted(MODEL, other, earlier_loads(store, other))
    assert found.overhead_source == "overhead from 3 earlier loads"
    table = TABLE["llamacpp/xllamacpp"].bytes_for(MIB, 2)
    assert 27 * MIB <= found.overhead_bytes < table
    again = predicted(MODEL, RELEASE, earlier_loads(store, RELEASE))
    assert (again.needed_bytes or 0) >= 32 * MIB, "never less than was seen"


def test_another_version_starts_from_the_table_or_from_more(store: Store) -> None:
    for number in range(3):
        measure(store, Door({f"r{number}": {"memory_bytes": 500 * MIB}}), place(f"r{number}"))
    found = predicted(MODEL, NEXT, earlier_loads(store, NEXT))
    assert found.overhead_source == "overhead from the table, raised to what an earlier load took"
    assert (found.needed_bytes or 0) >= 500 * MIB


@pytest.mark.parametrize("status", ["failed", "unreachable", "fenced"])
def test_a_host_that_does_not_answer_stops_nothing_and_teaches_nothing(store: Store, status: str) -> None:
    context = measure(store, Door({"r1": {"memory_bytes": 60 * MIB}}, status), place("r1"))
    assert any("h1 does not say what its replicas take: " in text and "no route" in text for text in context.told)
    assert [body["measured_bytes"] for kind, body in context.kept if kind == "fit"] == [None]
    assert earlier_loads(store, RELEASE) == ()


@pytest.mark.parametrize("said", [None, 0, -1, True, "5", 1.5, 1 << 60, float("nan")])
def test_what_can_not_be_a_size_was_not_measured(said: object) -> None:
    assert measured_bytes({"memory_bytes": said}, predicted(MODEL, RELEASE, ())) is None
    assert measured_bytes(None, predicted(MODEL, RELEASE, ())) is None


def test_a_gpu_runtime_is_measured_and_learned_on_its_accelerators(store: Store) -> None:
    report = predicted(MODEL, GPU, ())
    said = {"memory_bytes": 5000 * MIB, "accelerator_bytes": 900 * MIB}
    assert measured_bytes(said, report) == 900 * MIB
    assert measured_bytes(said, replace(report, devices=2)) == 450 * MIB
    measure(store, Door({"r1": said}), place("r1"), release=GPU)
    assert [load.measured_bytes for load in earlier_loads(store, GPU)] == [900 * MIB]
    measure(store, Door({"r2": {"memory_bytes": 1}}), place("r2"), release=GPU)
    assert len(earlier_loads(store, GPU)) == 1


def test_a_cpu_engine_on_a_host_with_accelerators_takes_main_memory() -> None:
    device = Accelerator(name="A", total=80 * MIB, free=70 * MIB, driver="5", id="GPU-1")
    facts: Any = SimpleNamespace(memory_available=9 * MIB, accelerators=(device,), spec=Facts)
    host = Host(name=HostName("g"), root="/opt/stack", group="gpu")
    assert room_for(facts, host, RELEASE) == 9 * MIB
    ollama = replace(RELEASE, runtime=replace(RELEASE.runtime, engine="ollama", distribution="ollama"))
    assert room_for(facts, host, ollama) == 70 * MIB
