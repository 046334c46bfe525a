"""The breach bench with two rounds: gateway, worker and verdicts are real, and each round ends at 0 %."""

from __future__ import annotations

import json

import pytest

from bench import breach


@pytest.mark.faults
def test_a_broken_candidate_loses_its_traffic_and_every_moment_is_told_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(breach, "HEALTHY_S", (0.5,))
    report = breach.measure(rounds=2)
    rounds = report.details["rounds"]
    assert [one["fault"] for one in rounds] == ["500", "close"]
    for one in rounds:
        assert one["first_bad_to_zero"] >= one["observed_to_zero"] >= one["verdict_to_zero"] > 0
        assert "limit" in one["reason"] or "quality" in one["reason"]
    clients = report.details["clients"]
    assert clients["answers"] > 0 and clients["failed"] == 0
    assert {f.name.split(",")[0] for f in report.figures} >= {"breach observed -> candidate at 0 %"}
    json.dumps([f.to_json() for f in report.figures], allow_nan=False)
