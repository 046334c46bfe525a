"""The bench of many hosts: what it calls growth, and a small simulated fleet from first release to figures."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench.fleet import SHOWN, growth
from bench.stage import ROOT


def test_growth_is_the_exponent_between_the_two_largest() -> None:
    def at(count: int) -> dict[str, float]:
        return {"canary_s": 3.0, "canary_cpu_s": 0.1 * count, "rss_mb": float(count * count)}

    found = growth({count: at(count) for count in (1, 10, 100, 1000)})
    assert [figure.values[0] for figure in found] == pytest.approx([0, 1, 2])
    assert all(figure.name.startswith("growth 100 -> 1000 hosts") for figure in found)


@pytest.mark.faults
def test_two_simulated_hosts_give_every_figure() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.fleet", "2"], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert {key for _, _, key in SHOWN} < set(found)
    assert all(value >= 0 for value in found.values())
    assert found["decision_max_s"] >= found["decision_p50_s"] > 0
    assert found["audit_rows"] > 20
