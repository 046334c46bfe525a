"""The benches' own arithmetic: what counts as overhead, what is over its target, what is kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench import figures
from bench.figures import Figure, Report, table
from bench.memory import both, rollup
from bench.stage import BenchFailed
from bench.timeline import spent


def event(second: float, kind: str, text: str) -> dict[str, Any]:
    return {"at": f"2026-01-01T00:00:{second:09.6f}Z", "kind": kind, "text": text}


STORY = [
    event(0, "phase", "planned: tiny@1.1 on llamacpp"),
    event(1, "phase", "preflight"),
    event(2, "phase", "placing"),
    event(2.5, "host", "local: Install the runtime"),
    event(6, "host", "local: Install the runtime: progress"),
    event(8.5, "host", "local: Send the artifact"),
    event(10, "phase", "warming"),
    event(13, "phase", "holding, candidate at 5 %"),
    event(20, "phase", "shifting, candidate at 100 %: 100 %"),
    event(20.25, "phase", "holding, candidate at 100 %"),
    event(30.25, "phase", "promoted"),
]


def test_overhead_is_everything_but_what_any_rollout_waits_for() -> None:
    found = spent(STORY)
    assert found.phases == pytest.approx(
        {
            "planned": 1,
            "preflight": 1,
            "placing": 2,
            "warming": 3,
            "holding": 17,
            "shifting": 0.25,
            "runtime install": 6,
        }
    )
    assert found.overhead == pytest.approx(1 + 1 + 2 + 0.25)
    assert found.ended - found.began == pytest.approx(sum(found.phases.values())) == pytest.approx(30.25)


def test_an_install_whose_end_was_not_told_counts_as_overhead() -> None:
    found = spent([e for e in STORY if "Send" not in e["text"]])
    assert "runtime install" not in found.phases and found.phases["placing"] == pytest.approx(8)


def test_a_figure_that_was_not_measured_is_never_within_its_target() -> None:
    missing, none = Figure(name="m", unit="s", values=(), target=1.0), Figure(name="n", unit="s", values=())
    assert missing.holds is False and none.holds is None
    assert table([missing, none]).count("NOT MEASURED") == 2


def test_the_table_says_which_figures_are_over() -> None:
    over, within = (
        Figure(name="a", unit="s", values=(3.0, 9.0), target=5.0),
        Figure(name="b", unit="s", values=(5.0,), target=5),
    )
    lines = table([over, within]).splitlines()
    assert "OVER" in lines[2] and "3-9" in lines[2] and lines[3].split()[-2:] == ["ok", "1"]


@pytest.mark.parametrize(("q", "expected"), [(0.5, 50.5), (0.95, 95), (1.0, 100), (0.0, 1)])
def test_quantiles_are_values_that_were_measured(q: float, expected: float) -> None:
    assert figures.quantile([float(n) for n in range(100, 0, -1)], q) == expected


def test_what_is_kept_gives_the_figures_back(tmp_path: Path) -> None:
    figure = Figure(name="f", unit="s", values=(1.0, 2.0, 4.0), target=3.0, quantile=0.95, note="p95")
    path = Report(bench="b", figures=(figure,), details={"x": 1}).keep(tmp_path / "out", {"before": figures.machine()})
    body = json.loads(path.read_text())
    assert [Figure.from_json(row) for row in body["figures"]] == [figure]
    assert body["figures"][0]["holds"] is False and body["machine"]["before"]["cores"] >= 1


def test_memory_of_one_process_is_no_sum() -> None:
    pids = {"gateway": 1}
    with pytest.raises(BenchFailed, match="gateway"):
        both(pids)


def test_memory_is_read_from_the_kernel() -> None:
    seen = rollup(os.getpid())
    assert 0 < seen["pss"] <= seen["rss"]
