"""Runs made of passes and failures, without asking anybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stack.core.digest import Digest
from stack.evals import EvalRun, Sample

TASKS = ("addition", "capitals", "comparison", "copy", "json", "reverse")
DIGEST = Digest.of(b"suite")


def sample(test: str, passed: bool, *, task: str = "copy", repeat: int = 0, error: str | None = None) -> Sample:
    """One sample."""
    return Sample(
        test_id=test,
        repeat=repeat,
        task=task,
        messages=({"role": "user", "content": f"prompt of {test}"},),
        output="" if error else "right" if passed else "wrong",
        finish_reason="stop",
        status=200,
        error=error,
        seed=42,
        temperature=0.0,
        max_tokens=64,
        model="tiny",
        release=None,
        slice=None,
        replica=None,
        latency_s=0.1,
        ttft_s=None,
        usage=None,
        tool_calls=(),
        streamed_output=None,
        outcomes=(),
        passed=passed,
        reason="" if passed else error or "equals: wrong",
    )


def run_of(results: Sequence[bool], *, tasks: int = 6) -> EvalRun:
    """A run with one test for each result, spread over `tasks` tasks in blocks."""
    size = max(1, -(-len(results) // tasks))
    samples = tuple(sample(f"t{i:04}", ok, task=TASKS[i // size]) for i, ok in enumerate(results))
    return of_samples(samples)


def of_samples(samples: Sequence[Sample]) -> EvalRun:
    """A complete run of these samples."""
    return EvalRun(
        suite="made",
        suite_digest=DIGEST,
        base_url="http://127.0.0.1:1/v1",
        model="tiny",
        expected_model=None,
        started_at="2026-01-01T00:00:00.000000Z",
        seconds=1.5,
        planned=len(samples),
        stopped=False,
        samples=tuple(samples),
    )


def flipped(run: EvalRun, tests: Sequence[int]) -> EvalRun:
    """`run` with the results of these tests turned round."""
    chosen = set(tests)
    samples = [
        replace(s, passed=not s.passed, output="wrong" if s.passed else "right") if i in chosen else s
        for i, s in enumerate(run.samples)
    ]
    return replace(run, samples=tuple(samples))
