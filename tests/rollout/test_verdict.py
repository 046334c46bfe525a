"""The verdict: what it must never say, and how often it may be wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from scipy.special import bdtrc, betaincinv

from stack.rollout.state import Verdict
from stack.rollout.verdict import Judgement, Limits, Observed, Quality, breached, judge, level_of

LIMITS = Limits(
    min_requests=60,
    min_seconds=2,
    max_seconds=60,
    max_error_rate=0.05,
    max_latency_p95_s=1.0,
    max_ttft_p95_s=0.5,
    max_latency_ratio=3.0,
    confidence=0.95,
)
PASS = Quality(outcome="PASS", reason="equal")


def rate(k: int, n: int, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    return low, 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))


def quantile(values: Sequence[float], q: float, confidence: float) -> tuple[float | None, float | None]:
    n, tail = len(values), (1 - confidence) / 2
    low = next((values[i] for i in range(n - 1, -1, -1) if bdtrc(i, n, q) >= 1 - tail), None)
    high = next((values[i] for i in range(n) if bdtrc(i, n, q) <= tail), None)
    return low, high


def ask(
    candidate: Observed,
    stable: Observed | None = None,
    quality: Quality | None = PASS,
    elapsed: float = 10.0,
    look: int = 1,
) -> Judgement:
    return judge(
        candidate,
        stable,
        quality,
        LIMITS,
        elapsed=elapsed,
        look=look,
        rate_interval=rate,
        quantile_interval=quantile,
    )


def seen(n: int, errors: int = 0, latency: float = 0.1) -> Observed:
    good = n - errors
    return Observed(requests=n, errors=errors, latencies=(latency,) * good, ttfts=(latency / 2,) * good)


def test_enough_good_evidence_promotes() -> None:
    judgement = ask(seen(200), seen(200))
    assert (judgement.verdict, judgement.final) == (Verdict.PROMOTE, True)
    assert {m.name for m in judgement.measures} >= {"error_rate", "latency_p95_s", "ttft_p95_s"}


def test_zero_failures_need_enough_requests_before_they_prove_anything() -> None:
    assert ask(seen(60)).verdict is Verdict.INCONCLUSIVE
    assert ask(seen(73)).verdict is Verdict.PROMOTE


def test_no_data_at_all_is_inconclusive_and_final_only_when_the_time_is_over() -> None:
    early, late = ask(Observed(), quality=None, elapsed=1), ask(Observed(), quality=None, elapsed=61)
    assert (early.verdict, early.final) == (Verdict.INCONCLUSIVE, False)
    assert (late.verdict, late.final) == (Verdict.INCONCLUSIVE, True)
    assert "0 of 60 requests" in late.reason and "no eval evidence" in late.reason


def test_a_plain_breach_needs_neither_time_nor_the_minimum_of_requests() -> None:
    judgement = ask(seen(5, errors=5), quality=None, elapsed=0.2)
    assert (judgement.verdict, judgement.final) == (Verdict.ROLLBACK, True)
    assert "error_rate" in judgement.reason


def test_slow_worse_or_slower_than_stable_is_rolled_back_with_that_reason() -> None:
    assert "latency_p95_s" in ask(seen(100, latency=1.5)).reason
    assert "latency_ratio_to_stable" in ask(seen(200, latency=0.9), seen(200, latency=0.1)).reason
    worse = ask(seen(200), quality=Quality(outcome="WORSE", reason="-40 points"))
    assert (worse.verdict, "-40 points" in worse.reason) == (Verdict.ROLLBACK, True)


def test_lost_measurements_and_a_missing_or_open_eval_hold_it_back() -> None:
    lost = Observed(requests=200, errors=0, latencies=(0.1,) * 200, ttfts=(0.1,) * 200, lost=1)
    for judgement in (
        ask(lost),
        ask(seen(200), quality=None),
        ask(seen(200), quality=Quality(outcome="INCONCLUSIVE", reason="3 pairs")),
    ):
        assert judgement.verdict is Verdict.INCONCLUSIVE


floats = st.floats(allow_nan=True, allow_infinity=True)


@given(
    st.integers(0, 300),
    st.integers(-5, 400),
    st.lists(floats, max_size=80),
    st.lists(floats, max_size=80),
    st.integers(0, 2),
    st.sampled_from([None, PASS, Quality(outcome="INCONCLUSIVE", reason="?"), Quality(outcome="nan", reason="?")]),
    st.floats(allow_nan=True),
)
def test_whatever_comes_promotion_is_never_given_without_everything_shown(
    n: int, errors: int, latencies: list[float], ttfts: list[float], lost: int, quality: Quality | None, elapsed: float
) -> None:
    observed = Observed(requests=n, errors=errors, latencies=tuple(latencies), ttfts=tuple(ttfts), lost=lost)
    judgement = ask(observed, None, quality, elapsed)
    if judgement.verdict is Verdict.PROMOTE:
        assert n >= LIMITS.min_requests and 0 <= errors < n and lost == 0 and quality is PASS
        assert latencies and ttfts and all(map(math.isfinite, (*latencies, *ttfts)))
        assert elapsed >= LIMITS.min_seconds
    assert "NaN" not in str(judgement.to_json()) and "Infinity" not in str(judgement.to_json())


def test_the_levels_of_all_looks_together_stay_within_alpha() -> None:
    assert sum(1 - level_of(k, 0.95) for k in range(1, 2000)) < 0.05


def test_looking_often_at_a_rate_on_the_limit_seldom_errs_in_either_direction() -> None:
    rng = random.Random(3)
    breaches = clears = 0
    rounds = 300
    for _ in range(rounds):
        n = errors = 0
        for look, size in enumerate((10, 20, 40, 80, 160, 320), start=1):
            while n < size:
                errors += rng.random() < LIMITS.max_error_rate
                n += 1
            verdict = ask(seen(n, errors=errors), look=look).verdict
            if verdict is not Verdict.INCONCLUSIVE:
                breaches += verdict is Verdict.ROLLBACK
                clears += verdict is Verdict.PROMOTE
                break
    assert breaches / rounds <= 0.08 and clears / rounds <= 0.08


def proven(candidate: Observed) -> Judgement | None:
    return breached(candidate, LIMITS, look=1, rate_interval=rate, quantile_interval=quantile)


def test_a_candidate_that_breaks_after_many_good_answers_is_caught_between_looks() -> None:
    assert proven(seen(300)) is None
    found = proven(seen(350, errors=50))
    assert found is not None and (found.verdict, found.final) == (Verdict.ROLLBACK, True)
    slow = Observed(requests=350, latencies=(0.1,) * 300 + (1.5,) * 50, ttfts=(0.1,) * 350)
    late = proven(slow)
    assert late is not None and "latency_p95_s" in late.reason


def test_asking_after_every_single_answer_seldom_calls_a_rate_on_the_limit_a_breach() -> None:
    rng = random.Random(5)
    breaches, rounds = 0, 200
    for _ in range(rounds):
        errors = 0
        for n in range(1, 251):
            errors += rng.random() < LIMITS.max_error_rate
            if errors >= 3 and proven(Observed(requests=n, errors=errors)) is not None:
                breaches += 1
                break
    assert breaches / rounds <= 0.05
