"""Judges a run alone, by the floor for a first release. Pure.

1. No samples, fewer tests than `min_pairs` (or `min_tests`), an unfinished run, tests recorded twice, several
   releases -> INCONCLUSIVE
2. Pass rate below `min_pass_rate` -> WORSE
3. Otherwise -> PASS
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from stack.evals.comparison import Comparison, FailingCase, Outcome, QualityThresholds, TaskResult
from stack.evals.samples import EvalRun, Sample
from stack.evals.stats import clopper_pearson


def absolute(run: EvalRun, thresholds: QualityThresholds, *, min_tests: int | None = None) -> Comparison:
    """`run` by the floor; `min_tests` stands in for `min_pairs` where the suite is small on purpose (smoke)."""
    tests = _by_test(run)
    passed = sum(all(sample.passed for sample in samples) for samples in tests.values())
    outcome, reasons = _decide(run, tests, passed, thresholds, min_tests or thresholds.min_pairs)
    return Comparison(
        outcome=outcome,
        reasons=reasons,
        suite=run.suite,
        n=len(tests),
        baseline_passed=None,
        candidate_passed=passed,
        regressed=0,
        improved=0,
        difference=None,
        interval=None,
        p=None,
        unpaired=(),
        tasks=tuple(_tasks(tests, 1 - thresholds.alpha)),
        failing=tuple(_failing(tests)),
        thresholds=thresholds,
    )


def _decide(
    run: EvalRun, tests: dict[str, list[Sample]], passed: int, thresholds: QualityThresholds, min_tests: int
) -> tuple[Outcome, tuple[str, ...]]:
    missing = tuple(_missing(run, tests, min_tests))
    if missing:  # 1
        return Outcome.INCONCLUSIVE, missing
    low, high = clopper_pearson(passed, len(tests), 1 - thresholds.alpha)
    shown = f"{passed} of {len(tests)} tests passed ({passed / len(tests):.1%}, [{low:.1%}, {high:.1%}])"
    if passed == 0 or passed / len(tests) < thresholds.min_pass_rate:  # 2
        return Outcome.WORSE, (f"{shown}; at least {thresholds.min_pass_rate:.1%} must",)
    return Outcome.PASS, (shown,)  # 3


def _missing(run: EvalRun, tests: dict[str, list[Sample]], min_tests: int) -> Iterator[str]:
    if len(tests) < min_tests:
        yield f"{len(tests)} tests, {min_tests} are needed"
    if not run.complete:
        yield f"the run is not complete: {len(run.samples)} of {run.planned} samples"
    if len({(sample.test_id, sample.repeat) for sample in run.samples}) < len(run.samples):
        yield "a test was recorded more than once"
    if len(run.releases) > 1:
        yield f"the answers came from {len(run.releases)} releases"


def _by_test(run: EvalRun) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample in run.samples:
        found[sample.test_id].append(sample)
    return found


def _tasks(tests: dict[str, list[Sample]], confidence: float) -> Iterator[TaskResult]:
    for name in sorted({samples[0].task for samples in tests.values()}):
        results = [all(s.passed for s in samples) for samples in tests.values() if samples[0].task == name]
        passed = sum(results)
        yield TaskResult(
            task=name,
            n=len(results),
            baseline_rate=None,
            baseline_interval=None,
            candidate_rate=passed / len(results),
            candidate_interval=clopper_pearson(passed, len(results), confidence),
            regressed=0,
            improved=0,
            p=None,
        )


def _failing(tests: dict[str, list[Sample]]) -> Iterator[FailingCase]:
    for test, samples in sorted(tests.items()):
        sample = next((s for s in samples if not s.passed), None)
        if sample is not None:
            yield FailingCase(
                test=test,
                task=sample.task,
                prompt=sample.prompt,
                baseline_output=None,
                candidate_output=sample.output,
                reason=sample.reason,
            )
