"""When the evidence of a rung is looked at, and when more of it is asked for. Pure."""

from __future__ import annotations

import pytest

from stack.rollout.holding import Glance, in_doubt, worth_a_look
from stack.rollout.verdict import Observed, Quality


@pytest.mark.parametrize(
    ("before", "now", "asked"),
    [
        (Observed(), Observed(requests=400, errors=2), False),
        (Observed(), Observed(requests=400, errors=3), True),
        (Observed(requests=400, errors=3), Observed(requests=500, errors=5), False),
        (Observed(requests=400, errors=3), Observed(requests=410, errors=13), True),
    ],
)
def test_a_candidate_that_fails_anew_is_asked_more(before: Observed, now: Observed, asked: bool) -> None:
    assert in_doubt(before, now) is asked


def test_a_look_needs_a_quarter_more_requests_another_quality_or_a_time_that_is_over() -> None:
    last = Glance(requests=100, quality=Quality(outcome="PASS", reason="equal"))
    again = Quality(outcome="PASS", reason="equal")
    assert not worth_a_look(last, Glance(requests=124, quality=last.quality))
    assert worth_a_look(last, Glance(requests=125, quality=last.quality))
    assert worth_a_look(last, Glance(requests=100, quality=again))
    assert worth_a_look(last, Glance(requests=100, quality=last.quality, ripe=True))
    assert worth_a_look(last, Glance(requests=100, quality=last.quality, over=True))
    assert not worth_a_look(Glance(), Glance(requests=4))
