"""Will it fit? Weights, KV cache from the header's own numbers, and the engine's overhead, against what is free.

`fit` is pure; `preflight_fit` asks this machine first. A header without the numbers is a refusal, not a guess. What an
engine takes beside weights and cache is learned from earlier loads, in `overhead`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, TypeGuard

from stack.core.release import Launch, ModelVersion, Release
from stack.runtimes.machine import available_memory, port_is_free
from stack.runtimes.overhead import UNKNOWN, Load, Overhead, overhead_of

__all__ = ["FitReport", "fit", "kv_bytes", "load_of", "port_is_free", "preflight_fit"]

KV_ELEMENT_BYTES = 2
BLOCKS: Mapping[str, int] = MappingProxyType({"vllm": 128})  # tokens; it hands out its cache so, and keeps one itself


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """The sum for one host. What stands there already is not counted twice: `available_bytes` is what is left."""

    fits: bool
    reason: str
    weights_bytes: int
    kv_bytes: int | None
    overhead_bytes: int
    replicas: int
    needed_bytes: int | None
    available_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """JSON scalars only."""
        return asdict(self)


def preflight_fit(
    model: ModelVersion, release: Release, *, replicas: int, available: int | None = None, loads: Iterable[Load] = ()
) -> FitReport:
    """`fit` with this machine's free memory (or with `available`, for another host); `loads` were measured earlier."""
    weights = sum(file.size for file in model.artifact.files)
    free = available_memory() if available is None else available
    runtime = f"{release.runtime.engine}/{release.runtime.distribution}"
    overhead = overhead_of(runtime, loads)
    block = BLOCKS.get(release.runtime.engine, 1)
    return fit(
        model.metadata, weights, release.launch, replicas=replicas, available=free, overhead=overhead, block=block
    )


def load_of(release: Release, report: FitReport, measured_bytes: int | None) -> Load | None:
    """What is learned when a release that `report` was about is loaded, warm, and takes so much; None if unknown."""
    runtime = f"{release.runtime.engine}/{release.runtime.distribution}"
    body = {"runtime": runtime, "weights_bytes": report.weights_bytes, "kv_bytes": report.kv_bytes}
    return Load.from_json({**body, "slots": release.launch.parallel, "measured_bytes": measured_bytes})


def fit(
    metadata: Mapping[str, Any],
    weights: int,
    launch: Launch,
    *,
    replicas: int,
    available: int | None,
    overhead: Overhead = UNKNOWN,
    block: int = 1,
) -> FitReport:
    """The sum, and whether it fits.

    1. The header lacks a number, or free memory is not known -> does not fit (nobody can say).
    2. The context asked for is more than the model was made for -> does not fit.
    3. More needed than free -> does not fit.   4. Otherwise -> fits.
    """
    kv = kv_bytes(metadata, launch, block)
    beside = overhead.bytes_for(weights, launch.parallel)
    needed = None if kv is None else replicas * (weights + kv + beside)
    made_for = metadata.get("context_length")
    if needed is None or available is None:  # 1
        what = "the header does not tell the size of the KV cache" if kv is None else "the free memory is not known"
        fits, reason = False, f"nobody can say whether it fits: {what}"
    elif isinstance(made_for, int) and launch.context > made_for:  # 2
        fits, reason = False, f"a context of {launch.context} tokens is more than the model's {made_for}"
    else:  # 3, 4
        fits = weights > 0 and replicas > 0 and needed <= available
        reason = f"{_mib(needed)} needed for {replicas} replica(s), {_mib(available)} free"
    return FitReport(
        fits=fits,
        reason=reason,
        weights_bytes=weights,
        kv_bytes=kv,
        overhead_bytes=beside,
        replicas=replicas,
        needed_bytes=needed,
        available_bytes=available,
    )


def kv_bytes(metadata: Mapping[str, Any], launch: Launch, block: int = 1) -> int | None:
    """Keys and values of all layers for every slot's whole context; None when the header lacks a number.

    With a `block` of more than one token, in whole blocks and one more.
    """
    layers, heads = metadata.get("block_count"), metadata.get("head_count_kv")
    key = metadata.get("key_length") or _head_size(metadata)
    value = metadata.get("value_length") or key
    if not _positive(layers) or not _positive(key) or not _positive(value):
        return None
    if isinstance(heads, list):
        if len(heads) != layers or not all(isinstance(n, int) and n >= 0 for n in heads):
            return None
        total_heads = sum(heads)
    elif _positive(heads):
        total_heads = layers * heads
    else:
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
