"""The statistics behind a verdict: exact where that is affordable, always with an interval. Pure numbers.

From `scipy.special` alone; `scipy.stats` costs 90 MB of memory. Pairs are counted as `b` (only the baseline
passed) and `c` (only the candidate passed) out of `n`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from scipy.special import bdtr, betaincinv, ndtri


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper & Pearson, Biometrika 26, 1934). No data: (0, 1)."""
    if not 0 <= successes <= n:
        raise ValueError("successes must lie between 0 and n")
    tail = (1 - _confidence(confidence)) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return low, high


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact p of McNemar's test: how likely discordant pairs at least this uneven are by chance."""
    if b < 0 or c < 0:
        raise ValueError("counts are not negative")
    if b == c:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5)))


def paired_difference(b: int, c: int, n: int, confidence: float = 0.95) -> tuple[float, float, float]:
    """`(c - b) / n` with Tango's score interval for the difference of paired proportions.

    T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17, 891-908, 1998. It keeps its level with few or no discordant pairs, where
    Wald's interval shrinks to a point. No data: (nan, -1, 1).
    """
    if b < 0 or c < 0 or b + c > n:
        raise ValueError("b and c are counts out of n")
    if n == 0:
        return math.nan, -1.0, 1.0
    difference = (c - b) / n
    z = float(ndtri(1 - (1 - _confidence(confidence)) / 2))
    # The score is monotone in the assumed difference, so each end is found by bisection.
    low = _bisect(lambda delta: _score(b, c, n, delta) > z, -1.0, difference)
    high = _bisect(lambda delta: _score(b, c, n, delta) >= -z, difference, 1.0)
    return difference, min(low, difference), max(high, difference)


def _score(b: int, c: int, n: int, delta: float) -> float:
    """Tango's statistic for H0: true difference = `delta` (falls as `delta` rises)."""
    distance = c - b - n * delta
    if abs(distance) < 1e-12:
        return 0.0
    # Maximum likelihood of the baseline-only probability under H0: 2n q^2 + linear q + constant = 0.
    linear = -(b + c) + (2 * n + b - c) * delta
    constant = -b * delta * (1 - delta)
    root = math.sqrt(max(0.0, linear * linear - 8 * n * constant))
    only_baseline = max(0.0, (root - linear) / (4 * n), -delta)
    variance = n * (2 * only_baseline + delta * (1 - delta))
    return math.copysign(math.inf, distance) if variance <= 0 else distance / math.sqrt(variance)


def _bisect(beyond: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        if beyond(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def quantile_interval(
    ordered: Sequence[float], q: float, confidence: float = 0.95
) -> tuple[float | None, float | None]:
    """Distribution-free interval of the `q` quantile from sorted values, by order statistics.

    An end that the data can't bound at this confidence is None: too few values are never a narrow interval.
    """
    if not 0 < q < 1:
        raise ValueError("q lies between 0 and 1")
    n = len(ordered)
    if any(not math.isfinite(value) for value in ordered):
        raise ValueError("values must be finite")
    if any(left > right for left, right in itertools.pairwise(ordered)):
        raise ValueError("values must be sorted")
    tail = (1 - _confidence(confidence)) / 2
    # x[k-1] <= quantile unless fewer than k values lie at or below it: P(Binomial(n, q) <= k - 1) <= tail.
    below = [k for k in range(1, n + 1) if float(bdtr(k - 1, n, q)) <= tail]
    above = [k for k in range(1, n + 1) if 1 - float(bdtr(k - 1, n, q)) <= tail]
    return (ordered[below[-1] - 1] if below else None, ordered[above[0] - 1] if above else None)


def _confidence(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError("confidence lies between 0 and 1")
    return confidence
