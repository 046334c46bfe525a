"""Pairs a candidate's samples with the baseline's, test by test. Pure.

A test is the unit: asked several times, it passed when every repeat passed. Repeats of one prompt are not
independent, so counting each as a pair of its own would make few tests look like much evidence.
A baseline sample without a valid answer is no evidence about the baseline, and the test stays unpaired; a
candidate sample without one is the candidate's failure.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from stack.evals.samples import EvalRun, Sample


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One test on both sides."""

    test: str
    task: str
    baseline_passed: bool
    candidate_passed: bool
    baseline: Sample
    candidate: Sample


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """The pairs, and the tests that have none with the reason."""

    pairs: tuple[Pair, ...]
    unpaired: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What pairs come to: of `n`, `both` passed twice, `b` only on the baseline, `c` only on the candidate."""

    n: int
    both: int
    b: int
    c: int

    @property
    def baseline_passed(self) -> int:
        """Tests the baseline passed."""
        return self.both + self.b

    @property
    def candidate_passed(self) -> int:
        """Tests the candidate passed."""
        return self.both + self.c


def pair(baseline: EvalRun, candidate: EvalRun) -> Pairing:
    """Every test that either side saw, paired or named as unpaired."""
    left, right = _by_test(baseline), _by_test(candidate)
    pairs: list[Pair] = []
    unpaired: list[tuple[str, str]] = []
    for test in sorted(left.keys() | right.keys()):
        why = _why_not(left.get(test, {}), right.get(test, {}))
        if why:
            unpaired.append((test, why))
        else:
            pairs.append(_pair(test, left[test], right[test]))
    return Pairing(pairs=tuple(pairs), unpaired=tuple(unpaired))


def count(pairs: tuple[Pair, ...]) -> Counts:
    """The four-fold table of `pairs`."""
    return Counts(
        n=len(pairs),
        both=sum(p.baseline_passed and p.candidate_passed for p in pairs),
        b=sum(p.baseline_passed and not p.candidate_passed for p in pairs),
        c=sum(p.candidate_passed and not p.baseline_passed for p in pairs),
    )


def _by_test(run: EvalRun) -> dict[str, dict[int, list[Sample]]]:
    found: dict[str, dict[int, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in run.samples:
        found[sample.test_id][sample.repeat].append(sample)
    return found


def _why_not(left: dict[int, list[Sample]], right: dict[int, list[Sample]]) -> str | None:
    if not left or not right:
        return f"not asked of the {'candidate' if left else 'baseline'}"
    if left.keys() != right.keys():
        return "not repeated equally often on both sides"
    if any(len(samples) != 1 for side in (left, right) for samples in side.values()):
        return "recorded more than once"
    for repeat, (sample,) in left.items():
        if sample.messages != right[repeat][0].messages:
            return "the prompts differ"
        if sample.error is not None:
            return f"no valid answer from the baseline: {sample.error[:120]}"
    return None


def _pair(test: str, left: dict[int, list[Sample]], right: dict[int, list[Sample]]) -> Pair:
    mine = [left[repeat][0] for repeat in sorted(left)]
    theirs = [right[repeat][0] for repeat in sorted(right)]
    shown = next((i for i, sample in enumerate(theirs) if not sample.passed), 0)
    return Pair(
        test=test,
        task=mine[0].task,
        baseline_passed=all(sample.passed for sample in mine),
        candidate_passed=all(sample.passed for sample in theirs),
        baseline=mine[shown],
        candidate=theirs[shown],
    )
