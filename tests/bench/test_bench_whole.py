"""``python -m bench`` at its smallest: each bench runs, prints the table and keeps well-formed JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.stage import ROOT

TARGETED = {
    "registry": "register one file / (cp; sha256sum)",
    "gateway": "CPU per request, gateway / nginx",
    "memory": "idle memory, control plane + gateway",
    "rollout": "rollback to warm LKG: all answers from it",
}


@pytest.mark.parametrize("name", ["registry", "gateway", pytest.param("memory", marks=pytest.mark.e2e),
                                  pytest.param("rollout", marks=pytest.mark.e2e)])  # fmt: skip
def test_it_runs_and_keeps_what_it_found(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", name, "--quick", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "load average before" in done.stdout and f"{name}: " in done.stdout
    body = json.loads((tmp_path / f"{name}.figures.json").read_text())
    figures = {figure["name"]: figure for figure in body["figures"]}
    assert figures[TARGETED[name]]["target"] > 0
    assert all(f["values"] and f["measured"] > -1 for f in figures.values() if "nginx" not in f["name"])
    assert body["machine"]["after"]["cores"] >= 1


def test_a_bench_that_nobody_knows_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "nonsense"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "nonsense" in done.stderr
