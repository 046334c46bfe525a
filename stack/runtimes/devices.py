"""How a release is spread over the accelerators of one host, and how much each of them must have free. Pure.

An engine takes the host's devices in their order, from the first; so the first ones are looked at, not the freest. A
device whose free memory is not known can't be counted on, and MIG slices are not whole devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

ON_ACCELERATORS = frozenset({"vllm/vllm"})
"""The runtimes whose weights and cache lie in accelerators' memory."""


class DeviceMemory(Protocol):
    """What is needed of a device; None: it does not say, or it can't be had as a whole."""

    @property
    def free(self) -> int | None:
        """Bytes."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one replica takes: all of main memory's sum, or a part on each of so many `devices`."""

    devices: int = 1
    memory: str = "main"
    free_bytes: int | None = None
    problem: str = ""

    @property
    def where(self) -> str:
        """For people."""
        if self.memory == "main":
            return ""
        return " on its accelerator" if self.devices == 1 else f" on each of {self.devices} accelerators"


def share_of(devices: Sequence[DeviceMemory] | None, tensor_parallel: int, metadata: Mapping[str, Any]) -> Share:
    """The share of each device, and the least that one of them has free.

    1. Nobody could list the devices, or the split is no number -> a problem.
    2. The host has fewer than asked for -> a problem.
    3. The model's attention heads can't be dealt out evenly -> a problem: the engine would refuse them.
    4. One of them does not say how much is free -> not known.   5. Otherwise -> the least.
    """
    wanted = max(1, tensor_parallel)
    share = Share(devices=wanted, memory="accelerator")
    if devices is None or tensor_parallel < 1:  # 1
        return _stopped(share, "nobody can say whether it fits: its accelerators can't be listed")
    if len(devices) < wanted:  # 2
        return _stopped(share, f"it is spread over {wanted} accelerator(s), and the host has {len(devices)}")
    if problem := _uneven(metadata.get("head_count"), wanted):  # 3
        return _stopped(share, problem)
    free = [device.free for device in devices[:wanted]]
    known = [size for size in free if size is not None]
    least = min(known) if len(known) == wanted else None  # 4, 5
    return Share(devices=wanted, memory="accelerator", free_bytes=least)


def _stopped(share: Share, problem: str) -> Share:
    return Share(devices=share.devices, memory=share.memory, problem=problem)


def _uneven(heads: Any, wanted: int) -> str:
    """Why a model with so many attention heads (a number, or one for each layer) can't be split so."""
    if wanted == 1:
        return ""
    every = heads if isinstance(heads, list) else [heads]
    if not every or not all(type(count) is int and count > 0 for count in every):
        return f"nobody can say whether it can be spread over {wanted} accelerators: the header lacks its heads"
    odd = next((count for count in every if count % wanted), None)
    return "" if odd is None else f"{odd} attention heads can't be dealt out to {wanted} accelerators"


def kv_heads(heads: Any, layers: int, devices: int) -> int | None:
    """Key/value heads of all layers that one of `devices` holds; None when the header does not tell."""
    every: list[int] = heads if isinstance(heads, list) else [heads] * layers
    least = 0 if isinstance(heads, list) else 1
    if len(every) != layers or not all(type(count) is int and count >= least for count in every):
        return None
    return sum(-(-count // devices) for count in every)
