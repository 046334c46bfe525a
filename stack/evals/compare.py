"""Judges a candidate's run against the baseline's, paired by test; or alone, for a first release. Pure.

`compare` decides by this tree (numbers repeated in the body); `d` is the candidate's pass rate minus the
baseline's, `[low, high]` Tango's interval for it at confidence 1 - alpha, `p` McNemar's exact two-sided p.

1. Do the runs speak about the same thing? Other suites, no pairs, fewer than `min_pairs`, more than one release
   within one run -> INCONCLUSIVE.
2. Is the candidate shown to be worse?
   2.1 d < 0 with p < alpha, and a drop of more than max_drop is not ruled out (low < -max_drop) -> WORSE
   2.2 some task's drop > max_task_drop with p < alpha / number of tasks (Bonferroni) -> WORSE
3. Is something missing? Unpaired tests, a run that did not finish, or no test that the candidate passed
   -> INCONCLUSIVE.
4. Does some task's drop exceed max_task_drop by at least two tests, though not significantly? -> INCONCLUSIVE
5. Is the candidate shown to be good enough?
   5.1 low >= -max_drop -> PASS (not inferior by more than the margin)
   5.2 d >= -max_drop / 2 and low >= -max_hidden_drop -> PASS
6. Otherwise -> INCONCLUSIVE.

Error levels. An equal candidate is called WORSE with probability at most alpha: 2.1 and 2.2 are exact and each
one-sided at alpha / 2. (`high < 0` alone would not do: with four tests lost and none won it holds, and chance does that
once in 16.) A candidate truly worse by max_hidden_drop or more gets PASS with probability at most alpha / 2
(both ways of 5 need low above it); one truly worse by just max_drop is mostly, not always, held back: 5.2 lets an
equal candidate with a little noise through, which 5.1 alone could not do at a few hundred tests.
"""

from __future__ import annotations

from collections.abc import Iterator

from stack.evals.absolute import absolute
from stack.evals.comparison import Comparison, FailingCase, Outcome, QualityThresholds, TaskResult
from stack.evals.pairing import Counts, Pair, Pairing, count, pair
from stack.evals.samples import EvalRun
from stack.evals.stats import clopper_pearson, mcnemar_exact, paired_difference

__all__ = ["Comparison", "Outcome", "QualityThresholds", "absolute", "compare"]


def compare(baseline: EvalRun, candidate: EvalRun, thresholds: QualityThresholds) -> Comparison:
    """The candidate against the baseline; see the module for the decision."""
    pairing = pair(baseline, candidate)
    counts = count(pairing.pairs)
    tasks = tuple(_tasks(pairing.pairs, thresholds))
    difference, low, high = paired_difference(counts.b, counts.c, counts.n, 1 - thresholds.alpha)
    p = mcnemar_exact(counts.b, counts.c) if counts.n else None
    outcome, reasons = _decide(baseline, candidate, pairing, counts, tasks, thresholds)
    return Comparison(
        outcome=outcome,
        reasons=reasons,
        suite=candidate.suite,
        n=counts.n,
        baseline_passed=counts.baseline_passed,
        candidate_passed=counts.candidate_passed,
        regressed=counts.b,
        improved=counts.c,
        difference=difference if counts.n else None,
        interval=(low, high) if counts.n else None,
        p=p,
        unpaired=pairing.unpaired,
        tasks=tasks,
        failing=tuple(_regressions(pairing.pairs)),
        thresholds=thresholds,
    )


def _decide(
    baseline: EvalRun,
    candidate: EvalRun,
    pairing: Pairing,
    counts: Counts,
    tasks: tuple[TaskResult, ...],
    thresholds: QualityThresholds,
) -> tuple[Outcome, tuple[str, ...]]:
    for outcome, reasons in (
        (Outcome.INCONCLUSIVE, _not_comparable(baseline, candidate, counts, thresholds)),  # 1
        (Outcome.WORSE, _worse(counts, tasks, thresholds)),  # 2
        (Outcome.INCONCLUSIVE, _missing(baseline, candidate, pairing, counts)),  # 3
        (Outcome.INCONCLUSIVE, _suspicious(tasks, thresholds)),  # 4
        (Outcome.PASS, _good_enough(counts, thresholds)),  # 5
    ):
        found = tuple(reasons)
        if found:
            return outcome, found
    difference, low, _ = paired_difference(counts.b, counts.c, counts.n, 1 - thresholds.alpha)
    text = f"a drop of more than {thresholds.max_drop:.1%} is not ruled out: {difference:+.1%}, at worst {low:+.1%}"
    return Outcome.INCONCLUSIVE, (text,)  # 6


def _not_comparable(
    baseline: EvalRun, candidate: EvalRun, counts: Counts, thresholds: QualityThresholds
) -> Iterator[str]:
    if baseline.suite_digest != candidate.suite_digest:
        yield "the runs asked different suites"
    for name, run in (("baseline", baseline), ("candidate", candidate)):
        if len(run.releases) > 1:
            yield f"the {name}'s answers came from {len(run.releases)} releases"
    if counts.n < thresholds.min_pairs:
        yield f"{counts.n} paired tests, {thresholds.min_pairs} are needed"


def _worse(counts: Counts, tasks: tuple[TaskResult, ...], thresholds: QualityThresholds) -> Iterator[str]:
    difference, low, high = paired_difference(counts.b, counts.c, counts.n, 1 - thresholds.alpha)
    p = mcnemar_exact(counts.b, counts.c)
    if difference < 0 and p < thresholds.alpha and low < -thresholds.max_drop:  # 2.1
        yield f"{counts.b} tests regressed, {counts.c} improved: {difference:+.1%} [{low:+.1%}, {high:+.1%}], p {p:.2g}"
    level = thresholds.alpha / max(1, len(tasks))
    for task in tasks:  # 2.2
        drop = (task.regressed - task.improved) / task.n
        if drop > thresholds.max_task_drop and task.p is not None and task.p < level:
            yield f"task {task.task}: {task.regressed} of {task.n} tests regressed, {-drop:+.1%}, p {task.p:.2g}"


def _missing(baseline: EvalRun, candidate: EvalRun, pairing: Pairing, counts: Counts) -> Iterator[str]:
    if pairing.unpaired:
        test, why = pairing.unpaired[0]
        yield f"{len(pairing.unpaired)} tests are unpaired, e.g. {test}: {why}"
    for name, run in (("baseline", baseline), ("candidate", candidate)):
        if not run.complete:
            yield f"the {name}'s run is not complete: {len(run.samples)} of {run.planned} samples"
    if counts.candidate_passed == 0:
        yield "the candidate passed no test at all"


def _suspicious(tasks: tuple[TaskResult, ...], thresholds: QualityThresholds) -> Iterator[str]:
    for task in tasks:
        net = task.regressed - task.improved
        if net >= 2 and net / task.n > thresholds.max_task_drop:
            yield f"task {task.task} may be worse: {task.regressed} of {task.n} regressed, {task.improved} improved"


def _good_enough(counts: Counts, thresholds: QualityThresholds) -> Iterator[str]:
    difference, low, high = paired_difference(counts.b, counts.c, counts.n, 1 - thresholds.alpha)
    shown = f"{difference:+.1%} [{low:+.1%}, {high:+.1%}] over {counts.n} paired tests"
    if low >= -thresholds.max_drop:  # 5.1
        yield f"not worse by more than {thresholds.max_drop:.1%}: {shown}"
    elif difference >= -thresholds.max_drop / 2 and low >= -thresholds.max_hidden_drop:  # 5.2
        yield f"no drop seen, and none of {thresholds.max_hidden_drop:.1%} or more: {shown}"


def _tasks(pairs: tuple[Pair, ...], thresholds: QualityThresholds) -> Iterator[TaskResult]:
    confidence = 1 - thresholds.alpha
    for name in sorted({p.task for p in pairs}):
        counts = count(tuple(p for p in pairs if p.task == name))
        yield TaskResult(
            task=name,
            n=counts.n,
            baseline_rate=counts.baseline_passed / counts.n,
            baseline_interval=clopper_pearson(counts.baseline_passed, counts.n, confidence),
            candidate_rate=counts.candidate_passed / counts.n,
            candidate_interval=clopper_pearson(counts.candidate_passed, counts.n, confidence),
            regressed=counts.b,
            improved=counts.c,
            p=mcnemar_exact(counts.b, counts.c),
        )


def _regressions(pairs: tuple[Pair, ...]) -> Iterator[FailingCase]:
    for p in pairs:
        if p.baseline_passed and not p.candidate_passed:
            yield FailingCase(
                test=p.test,
                task=p.task,
                prompt=p.candidate.prompt,
                baseline_output=p.baseline.output,
                candidate_output=p.candidate.output,
                reason=p.candidate.reason,
            )
