"""Will it fit? Weights, KV cache from the header's own numbers, and the engine's overhead, against what is free.

`fit` is pure; `preflight_fit` asks this machine first. A header without the numbers is a refusal, not a guess. What an
engine takes beside weights and cache is learned from earlier loads, in `overhead`; how a release is spread over several
accelerators of a host stands in `devices`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, TypeGuard

from stack.core.release import Launch, ModelVersion, Release
from stack.runtimes.devices import ON_ACCELERATORS, DeviceMemory, Share, kv_heads, share_of
from stack.runtimes.machine import available_memory, port_is_free
from stack.runtimes.overhead import UNKNOWN, Load, Overhead, known_overhead

__all__ = ["FitReport", "fit", "kv_bytes", "load_of", "port_is_free", "preflight_fit", "runtime_of"]

KV_ELEMENT_BYTES = 2
BLOCKS: Mapping[str, int] = MappingProxyType({"vllm": 128})  # tokens; it hands out its cache so, and keeps one itself


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """The sum for one host. What stands there already is not counted twice: `available_bytes` is what is left.

    With `memory` "accelerator" all bytes are those of each of the `devices` that a replica is spread over.
    """

    fits: bool
    reason: str
    weights_bytes: int
    kv_bytes: int | None
    overhead_bytes: int
    replicas: int
    needed_bytes: int | None
    available_bytes: int | None
    overhead_source: str = "overhead from the table"
    memory: str = "main"
    devices: int = 1

    def to_json(self) -> dict[str, Any]:
        """JSON scalars only."""
        return asdict(self)


def runtime_of(release: Release) -> str:
    """`engine/distribution`."""
    return f"{release.runtime.engine}/{release.runtime.distribution}"


def preflight_fit(
    model: ModelVersion,
    release: Release,
    *,
    replicas: int,
    available: int | None = None,
    devices: Sequence[DeviceMemory] | None = None,
    loads: Iterable[Load] = (),
) -> FitReport:
    """`fit` with this machine's free memory (or with `available`, for another host); `loads` were measured earlier.

    A runtime that computes on accelerators is measured against the host's `devices` instead; None: nobody could list
    them.
    """
    weights, runtime = sum(file.size for file in model.artifact.files), runtime_of(release)
    known = known_overhead(runtime, loads, lock=str(release.runtime.lock))
    block = BLOCKS.get(release.runtime.engine, 1)
    share = Share()
    if runtime in ON_ACCELERATORS:
        share = share_of(devices, release.launch.tensor_parallel, model.metadata)
        free = share.free_bytes
    else:
        free = available_memory() if available is None else available
    report = fit(
        model.metadata,
        weights,
        release.launch,
        replicas=replicas,
        available=free,
        overhead=known.overhead,
        block=block,
        share=share,
    )
    return replace(report, reason=f"{report.reason} ({known.source})", overhead_source=known.source)


def load_of(release: Release, report: FitReport, measured_bytes: int | None) -> Load | None:
    """What is learned when a release that `report` was about is loaded, warm, and takes so much; None if unknown."""
    body = {"runtime": runtime_of(release), "weights_bytes": report.weights_bytes, "kv_bytes": report.kv_bytes}
    lock = str(release.runtime.lock)
    return Load.from_json({**body, "lock": lock, "slots": release.launch.parallel, "measured_bytes": measured_bytes})


def fit(
    metadata: Mapping[str, Any],
    weights: int,
    launch: Launch,
    *,
    replicas: int,
    available: int | None,
    overhead: Overhead = UNKNOWN,
    block: int = 1,
    share: Share = Share(),  # noqa: B008 - frozen
) -> FitReport:
    """The sum, and whether it fits; with a `share` of several devices, on each of them.

    1. It can't be spread so -> does not fit.
    2. The header lacks a number, or free memory is not known -> does not fit (nobody can say).
    3. The context asked for is more than the model was made for -> does not fit.
    4. More needed than free -> does not fit.   5. Otherwise -> fits.
    """
    part = -(-weights // share.devices)
    kv = kv_bytes(metadata, launch, block, share.devices)
    beside = overhead.bytes_for(part, launch.parallel)
    needed = None if kv is None else replicas * (part + kv + beside)
    made_for = metadata.get("context_length")
    if share.problem:  # 1
        fits, reason = False, share.problem
    elif needed is None or available is None:  # 2
        what = "the header does not tell the size of the KV cache" if kv is None else "the free memory is not known"
        fits, reason = False, f"nobody can say whether it fits: {what}"
    elif isinstance(made_for, int) and launch.context > made_for:  # 3
        fits, reason = False, f"a context of {launch.context} tokens is more than the model's {made_for}"
    else:  # 4, 5
        fits = weights > 0 and replicas > 0 and needed <= available
        reason = f"{_mib(needed)} needed{share.where} for {replicas} replica(s), {_mib(available)} free"
    return FitReport(
        fits=fits,
        reason=reason,
        weights_bytes=part,
        kv_bytes=kv,
        overhead_bytes=beside,
        replicas=replicas,
        needed_bytes=needed,
        available_bytes=available,
        memory=share.memory,
        devices=share.devices,
    )


def kv_bytes(metadata: Mapping[str, Any], launch: Launch, block: int = 1, devices: int = 1) -> int | None:
    """Keys and values of all layers for every slot's whole context; None when the header lacks a number.

    With a `block` of more than one token, in whole blocks and one more. Spread over `devices`, on each of them: heads
    are not split, so with fewer heads than devices each device holds one.
    """
    layers, heads = metadata.get("block_count"), metadata.get("head_count_kv")
    key = metadata.get("key_length") or _head_size(metadata)
    value = metadata.get("value_length") or key
    if not _positive(layers) or not _positive(key) or not _positive(value):
        return None
    total_heads = kv_heads(heads, layers, devices)
    if total_heads is None:
        return None
    tokens = launch.parallel * -(-launch.context // block) * block + (block if block > 1 else 0)
    return int(total_heads * (key + value) * tokens * KV_ELEMENT_BYTES)


def _head_size(metadata: Mapping[str, Any]) -> int | None:
    width, heads = metadata.get("embedding_length"), metadata.get("head_count")
    if isinstance(heads, list):
        heads = max((n for n in heads if isinstance(n, int)), default=0)
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else None


def _positive(number: Any) -> TypeGuard[int]:
    return isinstance(number, int) and not isinstance(number, bool) and number > 0


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
