"""The verdict on quality: what passes, what is worse, and that missing evidence decides nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import flipped, of_samples, run_of, sample

from stack.core.canonical import canonical
from stack.core.digest import Digest
from stack.evals import Comparison, EvalRun, Outcome, QualityThresholds, absolute, compare
from stack.evals.comparison import BadComparison, BadThresholds
from stack.evals.samples import BadRun

T = QualityThresholds()
GOLDEN = Path(__file__).parent / "golden"
GOOD = run_of([True] * 200 + [False] * 10)


def test_an_equal_candidate_passes() -> None:
    comparison = compare(GOOD, GOOD, T)
    assert comparison.outcome is Outcome.PASS
    assert (comparison.n, comparison.regressed, comparison.improved, comparison.difference) == (210, 0, 0, 0.0)


def test_an_improved_candidate_passes() -> None:
    better = flipped(GOOD, [3, *range(200, 210)])
    assert compare(GOOD, better, T).outcome is Outcome.PASS


@given(st.integers(50, 400), st.integers(0, 20), st.integers(0, 10))
def test_never_worse_and_enough_pairs_passes(n: int, failing: int, improved: int) -> None:
    base = run_of([True] * (n - failing) + [False] * failing)
    better = flipped(base, range(n - failing, n - failing + min(improved, failing)))
    assert compare(base, better, T).outcome is Outcome.PASS


def test_a_real_regression_is_worse_and_shows_its_cases() -> None:
    comparison = compare(GOOD, flipped(GOOD, range(100)), T)
    assert comparison.outcome is Outcome.WORSE
    assert len(comparison.failing) == 100
    first = comparison.failing[0]
    assert (first.test, first.prompt, first.baseline_output, first.candidate_output) == (
        "t0000", "prompt of t0000", "right", "wrong",
    )  # fmt: skip
    assert comparison.interval is not None
    assert comparison.interval[1] < 0


def test_one_lost_task_is_worse_though_the_rest_improved() -> None:
    base = run_of([True] * 35 + [False] * 35 + [True] * 140)
    candidate = flipped(base, range(70))  # the first task lost, the second won: 0.0 % overall
    comparison = compare(base, candidate, T)
    assert comparison.difference == 0.0
    assert comparison.outcome is Outcome.WORSE
    assert comparison.reasons[0].startswith("task addition: 35 of 35 tests regressed")


def test_a_small_lost_task_is_at_least_no_pass() -> None:
    samples = [sample(f"a{i}", True, task="big") for i in range(200)]
    few = [sample(f"b{i}", True, task="small") for i in range(3)]
    lost = [sample(f"b{i}", False, task="small") for i in range(3)]
    comparison = compare(of_samples(samples + few), of_samples(samples + lost), T)
    assert comparison.outcome is Outcome.INCONCLUSIVE
    assert "task small may be worse" in comparison.reasons[0]


@pytest.mark.parametrize(
    ("lost", "outcome"),
    [(2, Outcome.PASS), (3, Outcome.INCONCLUSIVE), (5, Outcome.INCONCLUSIVE), (6, Outcome.WORSE)],
)
def test_the_borders_at_210_tests(lost: int, outcome: Outcome) -> None:
    # p of McNemar with 5 lost and none won is 0.0625, with 6 it is 0.03125
    assert compare(GOOD, flipped(GOOD, range(0, 35 * lost, 35)), T).outcome is outcome


MISSING = {
    "no data": (of_samples([]), of_samples([]), "0 paired tests"),
    "no candidate": (GOOD, of_samples([]), "0 paired tests"),
    "too few": (run_of([True] * 49), run_of([True] * 49), "49 paired tests, 50 are needed"),
    "unpaired": (GOOD, replace(GOOD, samples=GOOD.samples[1:], planned=209), "1 tests are unpaired"),
    "stopped": (GOOD, replace(GOOD, stopped=True), "the candidate's run is not complete"),
    "fewer than planned": (GOOD, replace(GOOD, planned=211), "210 of 211 samples"),
    "other suite": (GOOD, replace(GOOD, suite_digest=Digest.of(b"other")), "different suites"),
    "baseline did not answer": (
        of_samples([replace(s, passed=False, error="timeout") for s in GOOD.samples]),
        GOOD,
        "0 paired tests",
    ),
    "one baseline error": (
        of_samples([replace(GOOD.samples[0], passed=False, error="timeout"), *GOOD.samples[1:]]),
        GOOD,
        "no valid answer from the baseline: timeout",
    ),
    "twice": (GOOD, of_samples([*GOOD.samples, GOOD.samples[0]]), "recorded more than once"),
    "other prompt": (
        GOOD,
        of_samples([replace(GOOD.samples[0], messages=({"role": "user", "content": "x"},)), *GOOD.samples[1:]]),
        "the prompts differ",
    ),
    "two releases": (
        GOOD,
        of_samples([replace(s, release=f"r{i % 2}") for i, s in enumerate(GOOD.samples)]),
        "came from 2 releases",
    ),
    "nothing passes anywhere": (run_of([False] * 210), run_of([False] * 210), "passed no test at all"),
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_evidence_is_inconclusive(name: str) -> None:
    baseline, candidate, reason = MISSING[name]
    comparison = compare(baseline, candidate, T)
    assert comparison.outcome is Outcome.INCONCLUSIVE
    assert any(reason in text for text in comparison.reasons)


def test_candidate_errors_are_its_failures() -> None:
    dead = of_samples([replace(s, passed=False, error="timeout", reason="timeout") for s in GOOD.samples])
    comparison = compare(GOOD, dead, T)
    assert comparison.outcome is Outcome.WORSE
    assert comparison.failing[0].reason == "timeout"


def test_repeats_are_one_vote() -> None:
    once = [sample(f"t{i}", True) for i in range(20)]
    tenfold = of_samples([replace(s, repeat=r) for s in once for r in range(10)])
    comparison = compare(tenfold, tenfold, T)
    assert comparison.n == 20
    assert comparison.outcome is Outcome.INCONCLUSIVE


def test_a_repeat_that_fails_fails_the_test() -> None:
    base = of_samples([replace(s, repeat=r) for s in GOOD.samples for r in (0, 1)])
    candidate = flipped(base, range(1, 100, 2))
    assert compare(base, candidate, T).regressed == 50


def simulate(seed: int, runs: int, n: int, lost: float, won: float) -> dict[Outcome, float]:
    """Outcome shares over candidates that lose and win tests at random with these probabilities, each task alike."""
    rng = numpy.random.default_rng(seed)
    base = run_of([i % 2 == 0 for i in range(n)])
    found: dict[Outcome, float] = dict.fromkeys(Outcome, 0.0)
    for _ in range(runs):
        draws = rng.random(n)
        turned = [i for i in range(n) if draws[i] < 2 * (lost if i % 2 == 0 else won)]
        found[compare(base, flipped(base, turned), T).outcome] += 1 / runs
    return found


def test_error_level_of_worse_on_an_equal_candidate() -> None:
    shares = simulate(seed=1, runs=300, n=210, lost=0.03, won=0.03)
    assert shares[Outcome.WORSE] <= 0.05


def test_error_level_of_pass_on_a_candidate_worse_by_the_hidden_drop() -> None:
    shares = simulate(seed=2, runs=300, n=210, lost=0.09, won=0.01)
    assert shares[Outcome.PASS] <= 0.025 + 0.02


def test_power_on_a_clear_regression() -> None:
    shares = simulate(seed=3, runs=60, n=210, lost=0.20, won=0.01)
    assert shares[Outcome.WORSE] >= 0.95


def test_first_release_by_the_floor() -> None:
    assert absolute(run_of([True] * 168 + [False] * 42), T).outcome is Outcome.PASS
    worse = absolute(run_of([True] * 167 + [False] * 43), T)
    assert worse.outcome is Outcome.WORSE
    assert len(worse.failing) == 43
    assert worse.failing[0].baseline_output is None


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (of_samples([]), "0 tests, 50 are needed"),
        (run_of([True] * 49), "49 tests"),
        (replace(GOOD, stopped=True), "not complete"),
        (of_samples([*GOOD.samples, GOOD.samples[0]]), "more than once"),
    ],
)
def test_first_release_without_evidence(run: EvalRun, reason: str) -> None:
    result = absolute(run, T)
    assert result.outcome is Outcome.INCONCLUSIVE
    assert any(reason in text for text in result.reasons)


def test_a_floor_of_zero_does_not_admit_a_mute_model() -> None:
    assert absolute(run_of([False] * 60), replace(T, min_pass_rate=0.0)).outcome is Outcome.WORSE


def test_round_trips() -> None:
    for comparison in (compare(GOOD, flipped(GOOD, range(30)), T), compare(GOOD, GOOD, T), absolute(GOOD, T)):
        assert Comparison.from_json(json.loads(json.dumps(comparison.to_json()))) == comparison
    assert EvalRun.from_json(json.loads(json.dumps(GOOD.to_json()))) == GOOD


def test_the_stored_form_is_stable() -> None:
    base = run_of([True] * 50 + [False] * 2, tasks=2)
    comparison = compare(base, flipped(base, [0]), T)
    assert canonical(comparison.to_json()) == (GOLDEN / "comparison.json").read_bytes().rstrip(b"\n")
    assert canonical(sample("t1", True).to_json()) == (GOLDEN / "sample.json").read_bytes().rstrip(b"\n")


def test_what_was_not_stored_by_us_is_refused() -> None:
    body = compare(GOOD, GOOD, T).to_json()
    for broken in ({}, {**body, "outcome": "MAYBE"}, {**body, "more": 1}, {**body, "interval": [1]}):
        with pytest.raises(BadComparison):
            Comparison.from_json(broken)
    stored = GOOD.to_json()
    for change in ({"passed": "yes"}, {"passed": None}, {"error": "timeout"}, {"latency_s": float("nan")}):
        with pytest.raises(BadRun):
            EvalRun.from_json({**stored, "samples": [{**stored["samples"][0], **change}]})


@pytest.mark.parametrize("change", [{"alpha": 0.0}, {"max_drop": float("nan")}, {"min_pairs": 0}, {"max_task_drop": 2}])
def test_senseless_thresholds(change: dict[str, float]) -> None:
    with pytest.raises(BadThresholds):
        QualityThresholds(**change)  # type: ignore[arg-type]
