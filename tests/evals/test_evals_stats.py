"""Statistics against published values, brute force, and simulation."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.evals.stats import _score, clopper_pearson, mcnemar_exact, paired_difference, quantile_interval


def tail(successes: int, n: int, p: float) -> float:
    """P(X >= successes), summed."""
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(successes, n + 1))


@given(st.integers(1, 60), st.data())
def test_clopper_pearson_inverts_the_binomial_tail(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    low, high = clopper_pearson(k, n, 0.95)
    assert 0 <= low <= k / n <= high <= 1
    if k > 0:
        assert tail(k, n, low) == pytest.approx(0.025, abs=1e-9)
    if k < n:
        assert 1 - tail(k + 1, n, high) == pytest.approx(0.025, abs=1e-9)


def test_no_failures_in_59_bound_the_rate_below_5_percent() -> None:
    assert clopper_pearson(0, 59, 0.90)[1] < 0.05 < clopper_pearson(0, 58, 0.90)[1]
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_two_sided_sign_test(b: int, c: int) -> None:
    expected = min(1.0, 2 * tail(max(b, c), b + c, 0.5))
    assert mcnemar_exact(b, c) == pytest.approx(expected)
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)


def test_tangos_published_example() -> None:
    # Tango 1998, section 5: 44 pairs, one discordant: 90 % interval -0.096 to 0.037 (2.3 points).
    difference, low, high = paired_difference(1, 0, 44, 0.90)
    assert (round(difference, 3), round(low, 3), round(high, 3)) == (-0.023, -0.096, 0.037)


@pytest.mark.parametrize(("b", "c", "n", "d"), [(5, 9, 60, 0.1), (12, 3, 50, -0.3), (3, 0, 40, 0.05), (0, 4, 30, -0.1)])
def test_score_by_brute_force_likelihood(b: int, c: int, n: int, d: float) -> None:
    low, high = max(0.0, -d), (1 - d) / 2
    grid = low + (high - low) * (numpy.arange(40_000) + 0.5) / 40_000
    likelihood = b * numpy.log(grid) + c * numpy.log(grid + d) + (n - b - c) * numpy.log(1 - 2 * grid - d)
    q = grid[numpy.argmax(likelihood)]
    assert _score(b, c, n, d) == pytest.approx((c - b - n * d) / math.sqrt(n * (2 * q + d * (1 - d))), rel=1e-3)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300), st.floats(0.5, 0.999))
def test_paired_interval_is_ordered_and_antisymmetric(b: int, c: int, rest: int, confidence: float) -> None:
    n = b + c + rest
    difference, low, high = paired_difference(b, c, n, confidence)
    if n == 0:
        assert (math.isnan(difference), low, high) == (True, -1.0, 1.0)
        return
    assert -1 <= low <= difference <= high <= 1
    mirrored = paired_difference(c, b, n, confidence)
    assert mirrored[1] == pytest.approx(-high, abs=1e-9)
    assert low < high


def test_paired_interval_covers() -> None:
    rng = numpy.random.default_rng(7)
    draws = rng.multinomial(120, [0.06, 0.02, 0.92], size=2_000)
    inside = 0
    for b, c, _ in draws:
        _, low, high = paired_difference(int(b), int(c), 120, 0.95)
        inside += low <= -0.04 <= high
    assert 0.93 <= inside / 2_000 <= 0.98


def test_quantile_interval_covers_and_refuses_to_guess() -> None:
    rng = numpy.random.default_rng(11)
    inside = 0
    for _ in range(400):
        low, high = quantile_interval(sorted(rng.random(300)), 0.95, 0.95)
        assert low is not None
        assert high is not None
        inside += low <= 0.95 <= high
    assert inside / 400 >= 0.92
    assert quantile_interval([], 0.95) == (None, None)
    assert quantile_interval(list(range(20)), 0.95)[1] is None
    assert quantile_interval(list(range(3)), 0.5) == (None, None)


@pytest.mark.parametrize("values", [[math.nan], [2.0, 1.0], [1.0, math.inf]])
def test_quantiles_of_nonsense(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"finite|sorted"):
        quantile_interval(values, 0.5)


@pytest.mark.parametrize("confidence", [0.0, 1.0, math.nan, -1.0])
def test_senseless_confidence(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        paired_difference(1, 2, 10, confidence)
    with pytest.raises(ValueError, match="confidence"):
        clopper_pearson(1, 2, confidence)
