"""What replicas really take beside what was predicted: read from the host's account, kept, and learned from.

Who asks the host and when is for ``hosts``. What was not measured is not kept, so it teaches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stack.core.clock import Clock
from stack.core.release import ModelVersion, Release
from stack.fleet.asking import memory_for_weights
from stack.fleet.facts import Facts
from stack.fleet.values import Host
from stack.rollout.state import Placement
from stack.rollout.worker import Context
from stack.runtimes.devices import ON_ACCELERATORS
from stack.runtimes.fit import FitReport, load_of, preflight_fit, runtime_of
from stack.runtimes.overhead import Load
from stack.store.loads import LoadRow
from stack.store.store import Reading, Store

_ABSURD = 1 << 50


def earlier_loads(store: Store, release: Release) -> tuple[Load, ...]:
    """What replicas of this release's runtime were measured to take, of the memory that the runtime computes in."""
    memory = memory_of(release)
    with store.reading() as tx:
        rows = tx.loads(runtime_of(release))
    return tuple(_load(row) for row in rows if row.memory == memory)


def _load(row: LoadRow) -> Load:
    sizes = {"weights_bytes": row.weights_bytes, "kv_bytes": row.kv_bytes, "measured_bytes": row.measured_bytes}
    return Load(runtime=row.runtime, lock=str(row.lock), slots=row.slots, **sizes)


def memory_of(release: Release) -> str:
    """Where its weights and cache lie: ``main`` or ``accelerator``."""
    return "accelerator" if runtime_of(release) in ON_ACCELERATORS else "main"


def room_for(facts: Facts, host: Host, release: Release) -> int:
    """Bytes that an engine which takes main memory can have; Ollama takes the accelerator of a host in group gpu."""
    return memory_for_weights(facts, host.group if release.runtime.engine == "ollama" else "cpu") or 0


def predicted(model: ModelVersion, release: Release, loads: Iterable[Load]) -> FitReport:
    """The sum for one replica, wherever it stands."""
    return preflight_fit(model, release, replicas=1, available=0, loads=loads)


def measured_bytes(found: Mapping[str, Any] | None, report: FitReport) -> int | None:
    """What a host says that a replica takes (of each device that it is spread over); None unless it can be true."""
    said = (found or {}).get("accelerator_bytes" if report.memory == "accelerator" else "memory_bytes")
    return -(-said // report.devices) if type(said) is int and 0 < said < _ABSURD else None


def keep(
    store: Store,
    clock: Clock,
    place: Placement,
    release: Release,
    report: FitReport,
    size: int | None,
    context: Context,
) -> None:
    """Evidence in any case; a load to learn from only if it was measured."""
    figures = {"predicted_bytes": report.needed_bytes, "measured_bytes": size}
    said = {key: value for key, value in report.to_json().items() if key not in ("fits", "reason", "available_bytes")}
    context.evidence("fit", {"replica": place.replica, "host": place.host, **said, **figures})
    load, wanted = load_of(release, report, size), (report.needed_bytes or 0) >> 20
    if load is None:
        context.tell("evidence", f"what {place.replica} takes is not known; {wanted} MiB were predicted")
        return
    took = f"{place.replica} takes {load.measured_bytes >> 20} MiB"
    context.tell("evidence", f"{took}, {wanted} MiB were predicted ({report.overhead_source})")
    with context.writing(store) as tx:
        tx.put_load(
            LoadRow(
                replica=place.replica,
                release=release.digest,
                host=place.host,
                runtime=load.runtime,
                lock=release.runtime.lock,
                artifact=release.artifact,
                launch=release.launch.to_json(),
                memory="accelerator" if report.memory == "accelerator" else "main",
                weights_bytes=load.weights_bytes,
                kv_bytes=load.kv_bytes,
                slots=load.slots,
                predicted_bytes=report.needed_bytes or 0,
                measured_bytes=load.measured_bytes,
                measured_at=clock.now(),
            )
        )


def taken(tx: Reading, replicas: Iterable[str]) -> dict[str, dict[str, int]]:
    """Replica -> what was predicted for it and what it was measured to take; those that were measured."""
    return {
        replica: {"predicted_bytes": row.predicted_bytes, "measured_bytes": row.measured_bytes}
        for replica, row in tx.loads_of(replicas).items()
    }
