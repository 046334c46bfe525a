"""What a run leaves behind: every sample, with all that is needed to see why it passed or failed and to repeat it.

Laws: `EvalRun.from_json(r.to_json()) == r`, and the same for `Sample`. Headers sent are never kept.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from stack.core.digest import Digest
from stack.core.errors import InvalidInput
from stack.evals.assertions import Outcome


class BadRun(InvalidInput):
    """This is not a stored evaluation run: {detail}."""

    hint = "Give the JSON that an evaluation run wrote, unchanged."


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prompt asked once. `error` tells that no valid answer came; `reason` why it did not pass."""

    test_id: str
    repeat: int
    task: str
    messages: tuple[dict[str, Any], ...]
    output: str
    finish_reason: str | None
    status: int | None
    error: str | None
    seed: int
    temperature: float
    max_tokens: int
    model: str | None
    release: str | None
    slice: str | None
    replica: str | None
    latency_s: float | None
    ttft_s: float | None
    usage: dict[str, Any] | None
    tool_calls: tuple[dict[str, Any], ...]
    streamed_output: str | None
    outcomes: tuple[Outcome, ...]
    passed: bool
    reason: str

    def __post_init__(self) -> None:
        if self.passed is not True and self.passed is not False:
            raise BadRun(f"passed of {self.test_id!r} is neither true nor false")
        for value in (self.latency_s, self.ttft_s, self.temperature):
            if value is not None and not math.isfinite(value):
                raise BadRun(f"{self.test_id!r} carries a time or temperature that is not finite")
        if self.passed and self.error is not None:
            raise BadRun(f"{self.test_id!r} passed with an error")

    @property
    def prompt(self) -> str:
        """The last message, for people."""
        return str(self.messages[-1].get("content") or "") if self.messages else ""

    def to_json(self) -> dict[str, Any]:
        """JSON scalars, lists and mappings only."""
        body = asdict(self)
        for key in ("messages", "tool_calls", "outcomes"):
            body[key] = list(body[key])
        return body

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Sample:
        """Inverse of `to_json`; strict."""
        try:
            outcomes = tuple(Outcome(**outcome) for outcome in body["outcomes"])
            lists = {key: tuple(body[key]) for key in ("messages", "tool_calls")}
            return cls(**{**body, **lists, "outcomes": outcomes})
        except (KeyError, TypeError) as error:
            raise BadRun(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class EvalRun:
    """One suite asked of one endpoint. `planned` samples were meant; fewer came when it was stopped."""

    suite: str
    suite_digest: Digest
    base_url: str
    model: str
    expected_model: str | None
    started_at: str
    seconds: float
    planned: int
    stopped: bool
    samples: tuple[Sample, ...]

    @property
    def complete(self) -> bool:
        """Was everything asked that was meant to be?"""
        return not self.stopped and self.planned > 0 and len(self.samples) == self.planned

    @property
    def passed(self) -> int:
        """Samples that passed."""
        return sum(sample.passed for sample in self.samples)

    @property
    def failed(self) -> tuple[Sample, ...]:
        """Samples that did not pass."""
        return tuple(sample for sample in self.samples if not sample.passed)

    @property
    def pass_rate(self) -> float | None:
        """None without samples: no data is no rate."""
        return self.passed / len(self.samples) if self.samples else None

    @property
    def releases(self) -> frozenset[str]:
        """The releases the gateway named in its answers."""
        return frozenset(sample.release for sample in self.samples if sample.release)

    def to_json(self) -> dict[str, Any]:
        """JSON scalars, lists and mappings only."""
        body = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**body, "suite_digest": str(self.suite_digest), "samples": [s.to_json() for s in self.samples]}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> EvalRun:
        """Inverse of `to_json`; strict."""
        try:
            samples = tuple(Sample.from_json(sample) for sample in body["samples"])
            return cls(**{**body, "suite_digest": Digest(body["suite_digest"]), "samples": samples})
        except (KeyError, TypeError) as error:
            raise BadRun(str(error)) from error
