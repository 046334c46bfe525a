"""The verdict on one rung of a rollout: pure, from frozen evidence, with declared error levels.

``judge`` is a decision tree (numbers repeated in the code)::

    1 a breach that the data prove         -> ROLLBACK   at once, however little time has passed
      1a error rate       lower bound of the rate        > max_error_rate
      1b latency p95      lower bound of the quantile    > max_latency_p95_s
      1c time to 1st token, lower bound of the p95       > max_ttft_p95_s
      1d against stable   lower bound candidate p95 > max_latency_ratio x upper bound stable p95
      1e quality          the paired eval says WORSE
    2 something still missing              -> not yet; INCONCLUSIVE once the rung's time is over
      2a fewer than min_requests, or the rung is younger than min_seconds
      2b error rate not yet shown to be      < max_error_rate (upper bound)
      2c latency or first token not measured, or the point estimate is over its limit
      2d quality: no paired eval, or it is inconclusive
      2e evidence was lost (a ring overflowed, the gateway restarted, a figure is NaN)
    3 everything shown                     -> PROMOTE

Watching continuously means looking many times, and each look could err by chance. An all-clear, and 1d, are given at
looks only: look ``k`` (k = 1, 2, ...) spends ``alpha / (k (k + 1))``. A breach 1a-1c is seen at any moment: a bound on
``n`` measurements spends ``alpha / (n (n + 1))``, so it may be asked after each of them, and a candidate that breaks
after many good answers is not safe until the next look. Either sums to ``alpha``: over the whole rung each measure's
probability of a false breach stays below ``alpha``, and so does that of a false all-clear, whenever one stops (union
bound; alpha spending after Lan and DeMets, Biometrika 70, 1983). Bounds on rates are Clopper-Pearson (Biometrika 26,
1934); bounds on quantiles are order statistics (binomial). No data, NaN or stale data never count as success.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stack.rollout.state import Verdict

RateInterval = Callable[[int, int, float], tuple[float, float]]
QuantileInterval = Callable[[Sequence[float], float, float], tuple[float | None, float | None]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a rung must show. Rates 0-1, times in seconds; ``confidence`` is 1 - alpha, for the whole rung."""

    min_requests: int
    min_seconds: float
    max_seconds: float
    max_error_rate: float
    max_latency_p95_s: float
    max_ttft_p95_s: float
    max_latency_ratio: float
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What the gateway measured of one slice in this rung. Latencies and first-token times in seconds, unsorted."""

    requests: int = 0
    errors: int = 0
    latencies: tuple[float, ...] = ()
    ttfts: tuple[float, ...] = ()
    lost: int = 0


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The paired eval of this rung: ``PASS``, ``WORSE`` or ``INCONCLUSIVE``, with its reason in words."""

    outcome: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One line of a verdict: a figure, its interval, its limit, and whether it holds (None: not known)."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    limit: float
    n: int
    holds: bool | None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict with everything it rests on. ``final`` is false while the rung should go on collecting."""

    verdict: Verdict
    final: bool
    reason: str
    look: int
    level: float
    measures: tuple[Measure, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-able; floats that are not finite become null."""
        body = asdict(self)
        body["measures"] = [{k: _finite(v) for k, v in m.items()} for m in body["measures"]]
        return body


def level_of(look: int, confidence: float) -> float:
    """The confidence to use at look (or measurement) 1, 2, ... so that all of them together keep ``confidence``."""
    return 1.0 - (1.0 - confidence) / (look * (look + 1))


def judge(
    candidate: Observed,
    stable: Observed | None,
    quality: Quality | None,
    limits: Limits,
    *,
    elapsed: float,
    look: int,
    rate_interval: RateInterval,
    quantile_interval: QuantileInterval,
) -> Judgement:
    """The verdict on what was seen in ``elapsed`` seconds of the rung. ``stable`` is None on a first release."""
    level = level_of(look, limits.confidence)
    own = _own(candidate, limits, level, rate_interval, quantile_interval)
    measures = (*own, *_ratio(candidate, stable, limits, level, quantile_interval))

    def result(verdict: Verdict, final: bool, reason: str) -> Judgement:
        return Judgement(
            verdict=verdict, final=final, reason=reason, look=look, level=round(level, 6), measures=measures
        )

    breaches = _breaches(measures)  # 1a-1d
    if quality is not None and quality.outcome == "WORSE":  # 1e
        breaches.append(f"quality is worse: {quality.reason}")
    if breaches:
        return result(Verdict.ROLLBACK, True, "; ".join(breaches))
    missing = [*_missing(candidate, stable, limits, elapsed), *_unshown(measures), *_quality_gap(quality)]
    if missing:  # 2
        return result(Verdict.INCONCLUSIVE, elapsed >= limits.max_seconds, "; ".join(missing))
    return result(Verdict.PROMOTE, True, _summary(measures, quality))  # 3


def breached(
    candidate: Observed,
    limits: Limits,
    *,
    look: int,
    rate_interval: RateInterval,
    quantile_interval: QuantileInterval,
) -> Judgement | None:
    """1a-1c between looks (``look`` is the last one, or the first to come): a final ROLLBACK, or None."""
    level = level_of(look, limits.confidence)
    measures = _own(candidate, limits, level, rate_interval, quantile_interval)
    breaches = _breaches(measures)
    if not breaches:
        return None
    return Judgement(
        verdict=Verdict.ROLLBACK,
        final=True,
        reason="; ".join(breaches),
        look=look,
        level=round(level, 6),
        measures=measures,
    )


def _own(
    seen: Observed, limits: Limits, level: float, rate_interval: RateInterval, quantile_interval: QuantileInterval
) -> tuple[Measure, ...]:
    """What is measured of the candidate alone: lower bounds that hold at any moment, upper bounds for this look."""
    return (
        _errors(seen, limits, level, rate_interval),
        _quantile("latency_p95_s", seen.latencies, limits.max_latency_p95_s, level, limits, quantile_interval),
        _quantile("ttft_p95_s", seen.ttfts, limits.max_ttft_p95_s, level, limits, quantile_interval),
    )


def _breaches(measures: tuple[Measure, ...]) -> list[str]:
    return [_breach(m) for m in measures if m.low is not None and m.low > m.limit]


def _errors(seen: Observed, limits: Limits, level: float, interval: RateInterval) -> Measure:
    if not 0 <= seen.errors <= seen.requests or seen.requests == 0:
        return Measure(
            name="error_rate", value=None, low=None, high=None, limit=limits.max_error_rate, n=seen.requests, holds=None
        )
    # A one-sided bound on each side at ``level`` is the two-sided interval at 2 * level - 1.
    low, _ = interval(seen.errors, seen.requests, 2 * level_of(seen.requests, limits.confidence) - 1)
    _, high = interval(seen.errors, seen.requests, 2 * level - 1)
    return Measure(
        name="error_rate",
        value=seen.errors / seen.requests,
        low=low,
        high=high,
        limit=limits.max_error_rate,
        n=seen.requests,
        holds=True if high < limits.max_error_rate else None,
    )


def _quantile(
    name: str, values: tuple[float, ...], limit: float, level: float, limits: Limits, interval: QuantileInterval
) -> Measure:
    if not values or not all(math.isfinite(v) for v in values):
        return Measure(name=name, value=None, low=None, high=None, limit=limit, n=len(values), holds=None)
    ordered = sorted(values)
    low, _ = interval(ordered, 0.95, 2 * level_of(len(ordered), limits.confidence) - 1)
    _, high = interval(ordered, 0.95, 2 * level - 1)
    value = p95(ordered)
    holds = True if value <= limit else None
    return Measure(name=name, value=value, low=low, high=high, limit=limit, n=len(ordered), holds=holds)


def _ratio(
    candidate: Observed, stable: Observed | None, limits: Limits, level: float, interval: QuantileInterval
) -> tuple[Measure, ...]:
    """Candidate's p95 latency over stable's; conservative: best case of one against worst case of the other."""
    if stable is None or not stable.latencies or not candidate.latencies:
        return ()
    if not all(math.isfinite(v) for v in (*stable.latencies, *candidate.latencies)):
        return ()
    ours, theirs = sorted(candidate.latencies), sorted(stable.latencies)
    low, _ = interval(ours, 0.95, 2 * level - 1)
    _, high = interval(theirs, 0.95, 2 * level - 1)
    floor = low / high if low is not None and high else None
    value = p95(ours) / p95(theirs) if p95(theirs) > 0 else None
    shown = True if floor is None or floor <= limits.max_latency_ratio else None
    return (
        Measure(
            name="latency_ratio_to_stable",
            value=value,
            low=floor,
            high=None,
            limit=limits.max_latency_ratio,
            n=min(len(ours), len(theirs)),
            holds=shown,
        ),
    )


def p95(ordered: Sequence[float]) -> float:
    """The 95th percentile (nearest rank) of values in ascending order; there must be at least one."""
    return ordered[max(0, math.ceil(0.95 * len(ordered)) - 1)]


def _missing(candidate: Observed, stable: Observed | None, limits: Limits, elapsed: float) -> list[str]:
    gaps = []
    if candidate.requests < limits.min_requests:
        gaps.append(f"{candidate.requests} of {limits.min_requests} requests")  # 2a
    if not elapsed >= limits.min_seconds:
        gaps.append(f"{elapsed:.1f} s of {limits.min_seconds:g} s")
    lost = candidate.lost + (stable.lost if stable else 0)
    if lost:
        gaps.append(f"{lost} measurements were lost")  # 2e
    return gaps


def _unshown(measures: tuple[Measure, ...]) -> list[str]:
    """2b, 2c."""
    gaps = []
    for m in measures:
        if m.holds:
            continue
        if m.value is None:
            gaps.append(f"no data for {m.name}")
        else:
            bound = f", upper bound {m.high:.3g}" if m.high is not None else ""
            gaps.append(f"{m.name} {m.value:.3g}{bound} not shown to be within {m.limit:g} (n={m.n})")
    return gaps


def _quality_gap(quality: Quality | None) -> list[str]:
    """2d."""
    if quality is None:
        return ["no eval evidence"]
    return [] if quality.outcome == "PASS" else [f"quality is inconclusive: {quality.reason}"]


def _breach(m: Measure) -> str:
    return f"{m.name} is {m.value:.3g} (at least {m.low:.3g}), limit {m.limit:g}, n={m.n}"


def _summary(measures: tuple[Measure, ...], quality: Quality | None) -> str:
    shown = [f"{m.name} {m.value:.3g} <= {m.limit:g} (n={m.n})" for m in measures if m.value is not None]
    return "; ".join([*shown, f"quality: {quality.reason}" if quality else ""])


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
