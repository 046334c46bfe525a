"""What is missing never counts as success: no traffic, no eval data, no gateway, no control plane."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from running_stack import until
from stand_in import TEST, StandInStack, stand_in_stack, stop_driving

pytestmark = [pytest.mark.faults]
Count = Callable[[str], None]


def test_no_traffic_and_no_replay_pauses_and_never_promotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Count
) -> None:
    with stand_in_stack(tmp_path / "s", monkeypatch, {"replay": "off", "hold": {"max_seconds": 1}}) as stack:
        rollout = stack.begin("1.0")
        paused = 0
        for _ in range(3):
            until(lambda: stack.phase(rollout) == "paused")
            paused += 1
            state = stack.files.row(rollout)
            assert (state["verdict"], state["paused_from"]) == ("INCONCLUSIVE", "holding")
            assert "0 of 40 requests" in state["reason"]
            assert "no data for error_rate" in state["reason"], "the eval before traffic is not traffic"
            stack.operator.resume(rollout, TEST)
            until(lambda: len(stack.told(rollout, "verdict")) > paused)  # noqa: B023 - called at once
        until(lambda: stack.phase(rollout) == "paused")
        stack.operator.abort(rollout, "no evidence", TEST)
        over = stack.files.ended(rollout, also=())
        assert (over["phase"], over["verdict"]) == ("rolled_back", "ROLLBACK")
        assert "aborted by test: no evidence" in over["reason"]
        assert stack.host.running == {}
        services = stack.operator.status()["services"]
        assert [s["stable"] for s in services] == [None]
        assert stack.files.ask()[0] in (404, 503)
        counted(f"no traffic, no replay: paused {paused + 1} times, resumed {paused}, promoted 0, aborted -> no route")


def test_an_eval_too_small_to_decide_pauses_before_any_traffic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Count
) -> None:
    with stand_in_stack(tmp_path / "s", monkeypatch, tests=8) as stack:
        rollout = stack.begin("1.0")
        until(lambda: stack.phase(rollout) == "paused")
        state = stack.files.row(rollout)
        assert (state["verdict"], state["paused_from"], state["exposed"]) == ("INCONCLUSIVE", "evaluating", False)
        assert "8 tests, 50 are needed" in state["reason"]
        assert stack.told(rollout, "traffic") == []
        stack.operator.abort(rollout, "", TEST)
        assert stack.files.ended(rollout, also=())["phase"] == "rolled_back"
        counted(f"eval data too small: paused, candidate never routed; {state['reason']}")


def test_a_gateway_restarted_in_the_middle_of_a_hold_begins_the_rung_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Count
) -> None:
    with stand_in_stack(tmp_path / "s", monkeypatch, {"hold": {"min_seconds": 6}, "ladder": [50, 100]}) as stack:
        rollout = stack.begin("1.0")
        until(lambda: stack.phase(rollout) == "holding")
        until(lambda: any("60 of 60" in text for text in stack.told(rollout, "progress")))
        seen = stack.operator.observer.control.samples()
        stack.kill_gateway()
        stack.start_gateway()
        over = stack.files.ended(rollout)
        assert over["phase"] == "promoted", over["reason"]
        anew = [t for t in stack.told(rollout, "evidence") if "begins anew" in t]
        assert len(anew) == 1
        assert stack.operator.observer.control.samples()["boot_id"] != seen["boot_id"]
        counted("gateway killed in the middle of a hold: the rung began anew, then promoted")


def test_a_gateway_that_is_dead_while_traffic_must_go_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Count
) -> None:
    with stand_in_stack(tmp_path / "s", monkeypatch) as stack:
        assert stack.deploy("1.0")["phase"] == "promoted"
        monkeypatch.setattr("stack.rollout.holding._BLIND_S", 300.0)
        rollout = stack.begin("1.1")
        until(lambda: stack.phase(rollout) == "holding")
        stack.kill_gateway()
        stack.operator.abort(rollout, "gateway is dead", TEST)
        until(lambda: stack.files.row(rollout)["attempt"] >= 3)
        assert stack.phase(rollout) == "reverting"
        tried = stack.files.row(rollout)["attempt"]
        stack.start_gateway()
        over = stack.files.ended(rollout)
        assert over["phase"] == "rolled_back", over["reason"]
        assert over["notes"] == []
        assert stack.files.table["weights"] == {"stable": 100}
        assert {t["model"] for t in stack.files.table["targets"]} == {"tiny@1.0"}
        assert stack.files.ask()[1]["x-stack-slice"] == "stable"
        counted(f"gateway dead while reverting: {tried} attempts, finished once it was back, candidate at 0 %")


def test_the_gateway_serves_on_without_a_control_plane_also_after_its_own_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Count
) -> None:
    with stand_in_stack(tmp_path / "s", monkeypatch) as stack:
        assert stack.deploy("1.0")["phase"] == "promoted"
        before = stack.files.control.table()
        stop_driving(stack.operator)
        answers = [_served(stack) for _ in range(20)]
        stack.kill_gateway()
        stack.start_gateway()
        assert stack.files.control.table() == before
        answers += [_served(stack) for _ in range(20)]
        assert answers == [200] * 40
        counted(f"control plane dead, gateway killed once: {len(answers)} of 40 requests answered, the same table")


def _served(stack: StandInStack) -> int:
    return stack.files.ask()[0]
