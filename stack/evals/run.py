"""Asks a suite of an endpoint, several prompts at a time, and keeps every sample.

A timeout, an error, nonsense: a failed sample with its reason, never a missing one. Who compares and decides is
`compare`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from stack.core.clock import Clock, stamp
from stack.core.errors import InvalidInput
from stack.evals.answer import Answer
from stack.evals.assertions import judge
from stack.evals.endpoint import Asker, Endpoint
from stack.evals.samples import EvalRun, Sample
from stack.evals.suite import Case, Suite

__all__ = ["EvalRun", "Progress", "chosen_cases", "run_suite"]

DEFAULT_SEED = 42
Progress = Callable[[int, int, int], None]


class BadRunSettings(InvalidInput):
    """The evaluation can't be run: {detail}."""

    hint = "concurrency, repeat and limit are whole numbers of at least 1."


class _Job(NamedTuple):
    position: int
    case: Case
    repeat: int


def run_suite(
    suite: Suite,
    endpoint: Endpoint,
    *,
    concurrency: int = 4,
    clock: Clock,
    limit: int | None = None,
    repeat: int = 1,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    stream: bool = False,
    seed: int = DEFAULT_SEED,
) -> EvalRun:
    """Every case of `suite` (of its first `limit`), `repeat` times, at most `concurrency` at once.

    `progress(done, total, failed)` is called after each; `stop()` is asked before each and ends the run early,
    which the run then says. With `stream`, answers are streamed and carry a time to first token.
    """
    if concurrency < 1 or repeat < 1 or (limit is not None and limit < 1):
        raise BadRunSettings(f"concurrency={concurrency}, repeat={repeat}, limit={limit}")
    chosen = chosen_cases(suite, limit)
    jobs = [_Job(i, case, n) for i, (n, case) in enumerate(itertools.product(range(repeat), chosen))]
    started_at, started = stamp(clock.now()), clock.monotonic()
    asker = Asker(endpoint, clock, concurrency)
    try:
        samples = _run(jobs, lambda job: _sample(asker, job, seed, stream), concurrency, progress, stop)
    finally:
        asker.close()
    return EvalRun(
        suite=suite.name,
        suite_digest=suite.digest,
        base_url=endpoint.base_url,
        model=endpoint.model,
        expected_model=endpoint.expected_model,
        started_at=started_at,
        seconds=clock.monotonic() - started,
        planned=len(jobs),
        stopped=len(samples) < len(jobs),
        samples=samples,
    )


def chosen_cases(suite: Suite, limit: int | None) -> tuple[Case, ...]:
    """At most `limit` cases, taken in turn from each task, so that a small subset still sees every task."""
    if limit is None or limit >= len(suite.cases):
        return suite.cases
    turns: dict[str, int] = {}
    keyed = []
    for position, case in enumerate(suite.cases):
        turn = turns[case.task] = turns.get(case.task, 0) + 1
        keyed.append((turn, position))
    keep = sorted(position for _, position in sorted(keyed)[:limit])
    return tuple(suite.cases[position] for position in keep)


def _run(
    jobs: list[_Job],
    ask: Callable[[_Job], Sample],
    concurrency: int,
    progress: Progress | None,
    stop: Callable[[], bool] | None,
) -> tuple[Sample, ...]:
    done: dict[int, Sample] = {}
    failed = 0
    waiting: Iterator[_Job] = iter(jobs)
    running: dict[Future[Sample], int] = {}
    stopping = False
    with ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="eval") as pool:
        while True:
            while not stopping and len(running) < concurrency and (job := next(waiting, None)) is not None:
                stopping = stop is not None and stop()
                if not stopping:
                    running[pool.submit(ask, job)] = job.position
            if not running:
                break
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                sample = done[running.pop(future)] = future.result()
                failed += not sample.passed
                if progress is not None:
                    progress(len(done), len(jobs), failed)
    return tuple(done[position] for position in sorted(done))


def _sample(asker: Asker, job: _Job, seed: int, stream: bool) -> Sample:
    case = job.case
    used_seed = (seed if case.options.seed is None else case.options.seed) + job.repeat
    answer = asker.ask(case, used_seed, stream=stream and not case.wants_stream)
    streamed: Answer | None = asker.ask(case, used_seed, stream=True) if case.wants_stream else None
    judgement = judge(case, answer, streamed)
    return Sample(
        test_id=case.id,
        repeat=job.repeat,
        task=case.task,
        messages=case.messages,
        output=answer.text,
        finish_reason=answer.finish_reason,
        status=answer.status,
        error=answer.error,
        seed=used_seed,
        temperature=case.options.temperature,
        max_tokens=case.options.max_tokens,
        model=answer.model,
        release=answer.release,
        slice=answer.slice,
        replica=answer.replica,
        latency_s=answer.latency_s,
        ttft_s=streamed.ttft_s if streamed else answer.ttft_s,
        usage=answer.usage,
        tool_calls=answer.tool_calls,
        streamed_output=streamed.text if streamed else None,
        outcomes=judgement.outcomes,
        passed=judgement.passed,
        reason=judgement.reason,
    )
