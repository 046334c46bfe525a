"""What a comparison says and by which thresholds: values with a stable JSON form.

Law: `Comparison.from_json(c.to_json()) == c`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from stack.core.errors import InvalidInput


class BadThresholds(InvalidInput):
    """The quality thresholds make no sense: {detail}."""

    hint = "Shares and alpha lie between 0 and 1 (alpha below 0.5); min_pairs is at least 1."


class BadComparison(InvalidInput):
    """This is not a stored comparison: {detail}."""

    hint = "Give the JSON that a comparison wrote, unchanged."


class Outcome(StrEnum):
    """How the candidate stands to the baseline."""

    PASS = "PASS"  # noqa: S105 - an outcome, not a password
    WORSE = "WORSE"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, kw_only=True)
class QualityThresholds:
    """What is asked of a candidate.

    max_drop: a true overall drop this small is acceptable (the non-inferiority margin).
    max_hidden_drop: a true overall drop this large passes with probability at most alpha / 2, at any estimate.
    max_task_drop: no single task may fall by more.  alpha: the error level.  min_pairs: fewer tests decide nothing.
    min_pass_rate: the floor for a first release, which has no baseline.
    """

    max_drop: float = 0.02
    max_task_drop: float = 0.15
    max_hidden_drop: float = 0.08
    alpha: float = 0.05
    min_pairs: int = 50
    min_pass_rate: float = 0.80

    def __post_init__(self) -> None:
        shares = (self.max_drop, self.max_task_drop, self.max_hidden_drop, self.min_pass_rate)
        if not all(0 <= share <= 1 for share in shares) or not 0 < self.alpha < 0.5 or self.min_pairs < 1:
            raise BadThresholds(str(asdict(self)))


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One task on both sides; intervals are exact (Clopper-Pearson)."""

    task: str
    n: int
    baseline_rate: float | None
    baseline_interval: tuple[float, float] | None
    candidate_rate: float
    candidate_interval: tuple[float, float]
    regressed: int
    improved: int
    p: float | None


@dataclass(frozen=True, kw_only=True)
class FailingCase:
    """A test that the candidate fails and, with a baseline, the baseline passes."""

    test: str
    task: str
    prompt: str
    baseline_output: str | None
    candidate_output: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The outcome, why, and the numbers it rests on. Without a baseline, the baseline's fields are None."""

    outcome: Outcome
    reasons: tuple[str, ...]
    suite: str
    n: int
    baseline_passed: int | None
    candidate_passed: int
    regressed: int
    improved: int
    difference: float | None
    interval: tuple[float, float] | None
    p: float | None
    unpaired: tuple[tuple[str, str], ...]
    tasks: tuple[TaskResult, ...]
    failing: tuple[FailingCase, ...]
    thresholds: QualityThresholds

    def to_json(self) -> dict[str, Any]:
        """JSON scalars, lists and mappings only."""
        body: dict[str, Any] = _plain(asdict(self))
        return {**body, "outcome": self.outcome.value}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Comparison:
        """Inverse of `to_json`; strict."""
        try:
            return cls(
                **{
                    **body,
                    "outcome": Outcome(body["outcome"]),
                    "reasons": tuple(body["reasons"]),
                    "interval": _interval(body["interval"]),
                    "unpaired": tuple((test, why) for test, why in body["unpaired"]),
                    "tasks": tuple(_task(task) for task in body["tasks"]),
                    "failing": tuple(FailingCase(**case) for case in body["failing"]),
                    "thresholds": QualityThresholds(**body["thresholds"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadComparison(str(error)) from error


def _task(body: dict[str, Any]) -> TaskResult:
    intervals = {key: _interval(body[key]) for key in ("baseline_interval", "candidate_interval")}
    return TaskResult(**{**body, **intervals})


def _interval(body: list[float] | None) -> tuple[float, float] | None:
    if body is None:
        return None
    low, high = body
    return low, high


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
