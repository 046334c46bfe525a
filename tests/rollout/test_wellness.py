"""Well or sick: the decision over looks, and how soon and how surely it comes, by a simulated replica."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.rollout.wellness import (
    Condition,
    Held,
    Limits,
    Look,
    Outcome,
    Probe,
    Wellness,
    first_seen,
    held_back,
    judged,
    loading,
    wants_probe,
)

LIMITS = Limits()
NOW = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
SICKNESSES = (Outcome.WRONG, Outcome.LATE, Outcome.DOWN)


@dataclass
class Replica:
    """A simulated one under the monitor's loop. ``probes(t)``: outcome of a probe begun then, and how long it takes;
    ``answers(t)``: how many came in the second before; ``inflight(t)``: None when the gateway is away."""

    probes: Callable[[float], tuple[Outcome, float]]
    answers: Callable[[float], int] = lambda _: 0
    inflight: Callable[[float], int | None] = lambda _: 0
    slots: int = 4
    asked: int = 0

    def run(self, until_s: float, start: float = 0.0) -> tuple[Wellness, float | None]:
        """Where it ended, and when it was SICK for the first time."""
        state, at = first_seen(start), start
        asked_at: float | None = None
        pending: tuple[Probe, float] | None = None
        while at < until_s:
            at += LIMITS.look_s
            done = None
            if pending and pending[1] <= at:
                done, pending = pending[0], None
            elif pending and at - pending[0].began >= LIMITS.probe_s:
                done, pending = replace(pending[0], outcome=Outcome.LATE), None
            look = Look(at=at, slots=self.slots, inflight=self.inflight(at), answers=self.answers(at), probe=done)
            state = judged(state, look, LIMITS)
            if state.condition is Condition.SICK:
                return state, at
            if pending is None and wants_probe(state, look, asked_at, LIMITS):
                self.asked += 1
                outcome, seconds = self.probes(at)
                asked_at, pending = at, (Probe(began=at, outcome=outcome, reason=str(outcome)), at + seconds)
        return state, None


def test_detection_is_under_thirty_seconds_by_construction() -> None:
    assert LIMITS.detected_within_s < 30


@given(
    st.floats(20, 40),
    st.sampled_from(SICKNESSES),
    st.floats(0.01, 12),
    st.sampled_from([0, 1, 3, 4, 9]),
    st.floats(0.01, 4),
)
def test_every_sickness_is_found_in_time_with_and_without_traffic(
    onset: float, outcome: Outcome, takes: float, inflight: int, rhythm: float
) -> None:
    """Answers come until the onset; in-flight requests stay for good after it. A wrong engine goes on answering, but
    then it must not be saturated all the while, and nonsense that comes too late is only late."""
    wrong = outcome is Outcome.WRONG
    takes = min(takes, 6.0) if wrong else takes
    if wrong and inflight >= 4:
        inflight = 3

    def answers(at: float) -> int:
        flows = inflight > 0 and (at < onset or wrong)
        return int(flows and at // rhythm != (at - 1) // rhythm)

    replica = Replica(
        probes=lambda t: (outcome, takes) if t + takes > onset else (Outcome.GOOD, 0.1),
        answers=answers,
        inflight=lambda _: inflight,
    )
    _, sick_at = replica.run(onset + 60)
    assert sick_at is not None
    assert 0 < sick_at - onset <= LIMITS.detected_within_s


@given(st.integers(4, 64), st.floats(0.2, 15.0), st.floats(5.0, 30.0))
def test_a_saturated_replica_that_answers_is_never_sick(inflight: int, every: float, probe_takes: float) -> None:
    """Its probes would all be late; answers come in bursts, up to 15 s apart."""
    replica = Replica(
        probes=lambda _: (Outcome.LATE, probe_takes),
        answers=lambda t: int(t // every) - int((t - LIMITS.look_s) // every),
        inflight=lambda _: inflight,
    )
    state, sick_at = replica.run(300)
    assert sick_at is None
    assert state.condition in (Condition.BUSY, Condition.SUSPECT)


def test_a_saturated_replica_that_answers_is_not_probed() -> None:
    replica = Replica(probes=lambda _: (Outcome.GOOD, 0.1), answers=lambda _: 1, inflight=lambda _: 9)
    state, _ = replica.run(60)
    assert (replica.asked, state.condition) == (0, Condition.BUSY)


def test_an_idle_replica_is_probed_about_every_five_seconds() -> None:
    replica = Replica(probes=lambda _: (Outcome.GOOD, 0.1))
    state, sick = replica.run(100)
    assert (state.condition, sick) == (Condition.WELL, None)
    assert 18 <= replica.asked <= 22


def test_one_bad_probe_among_good_ones_kills_nobody() -> None:
    count = iter(range(1000))
    replica = Replica(probes=lambda _: (Outcome.LATE, 6.0) if next(count) % 2 else (Outcome.GOOD, 0.1))
    assert replica.run(600)[1] is None


@pytest.mark.parametrize("outcome", SICKNESSES)
def test_two_quick_failures_are_not_enough(outcome: Outcome) -> None:
    replica = Replica(probes=lambda t: (outcome, 0.01) if 20 < t < 26 else (Outcome.GOOD, 0.1))
    state, sick = replica.run(60)
    assert (state.condition, sick) == (Condition.WELL, None)


def test_a_late_probe_kills_nobody_while_the_gateway_can_not_be_asked() -> None:
    """Missing evidence is neither well nor a reason to kill."""
    state, sick = Replica(probes=lambda _: (Outcome.LATE, 6.0), inflight=lambda _: None).run(300)
    assert (state.condition, sick) == (Condition.SUSPECT, None)
    assert "gateway" in state.reason


@pytest.mark.parametrize("outcome", [Outcome.WRONG, Outcome.DOWN])
def test_what_is_sick_for_sure_needs_no_gateway(outcome: Outcome) -> None:
    _, sick = Replica(probes=lambda _: (outcome, 0.1), inflight=lambda _: None).run(300)
    assert sick is not None
    assert sick <= LIMITS.detected_within_s


def test_an_engine_that_counts_steps_is_busy_however_long_an_answer_takes() -> None:
    replica = Replica(probes=lambda _: (Outcome.MOVING, 6.0), inflight=lambda _: 9)
    state, sick = replica.run(600)
    assert sick is None
    assert state.moved_at > 590


def test_nothing_is_well_before_it_was_asked() -> None:
    assert first_seen(0.0).condition is Condition.SUSPECT
    look = Look(at=1.0, slots=4, inflight=0)
    assert judged(first_seen(0.0), look, LIMITS).condition is Condition.SUSPECT
    assert wants_probe(first_seen(0.0), look, None, LIMITS)


def test_progress_is_no_excuse_for_wrong_answers() -> None:
    state, sick = Replica(probes=lambda _: (Outcome.WRONG, 0.1), answers=lambda _: 5, inflight=lambda _: 2).run(60)
    assert sick is not None
    assert state.outcome is Outcome.WRONG


def test_a_pause_of_this_process_is_not_held_against_the_replica() -> None:
    state = judged(first_seen(0.0), Look(at=1.0, slots=4, probe=Probe(began=0.5, outcome=Outcome.DOWN)), LIMITS)
    assert state.failed == 1
    late = Probe(began=1.0, outcome=Outcome.DOWN)
    state = judged(state, Look(at=60.0, slots=4, probe=late), LIMITS)
    assert (state.condition, state.failed) == (Condition.SUSPECT, 0)
    state = judged(state, Look(at=61.0, slots=4, probe=late), LIMITS)
    assert state.failed == 0, "a probe from before the pause"


# loading ----------------------------------------------------------------------------------------------------------


def sick(outcome: Outcome, at: float, moved_at: float, *, proven: bool = True) -> Wellness:
    return replace(
        first_seen(at), condition=Condition.SICK, outcome=outcome, moved_at=moved_at, proven=proven, failed=3
    )


def test_a_process_younger_than_the_last_proof_of_life_is_loading() -> None:
    found = loading(sick(Outcome.DOWN, 100.0, 80.0), 12.0, 120.0, 100.0)
    assert (found.condition, found.loading_since) == (Condition.LOADING, 100.0)


@pytest.mark.parametrize(
    ("state", "age"),
    [
        (sick(Outcome.DOWN, 100.0, 80.0), 25.0),  # it was well and then fell ill: not loading
        (sick(Outcome.DOWN, 100.0, 80.0), None),  # no process, or the host can't say
        (sick(Outcome.WRONG, 100.0, 80.0), 12.0),  # it answers nonsense: it has loaded
        (sick(Outcome.DOWN, 100.0, 80.0, proven=False), 121.0),  # never well, and had its time
        (replace(sick(Outcome.DOWN, 200.0, 80.0), loading_since=70.0), 12.0),  # all in all too long
    ],
)
def test_who_is_not_loading(state: Wellness, age: float | None) -> None:
    assert loading(state, age, 120.0, state.looked_at) == state


def test_who_never_becomes_ready_is_sick_after_ready_s() -> None:
    """Also one whose supervisor starts it again and again, so that its process is always young."""
    state, at, asked = first_seen(0.0), 0.0, 0
    while at < 300:
        at += 1.0
        probe = Probe(began=at - 0.5, outcome=Outcome.DOWN)
        state = judged(state, Look(at=at, slots=4, inflight=0, probe=probe), LIMITS)
        if state.condition is Condition.SICK:
            asked += 1
            state = loading(state, 1.0, 120.0, at)
            if state.condition is Condition.SICK:
                break
    assert 120 <= at <= 120 + 2 * LIMITS.detected_within_s
    assert 5 < asked < 20, "the host is asked, but not at every look"


# restarts ---------------------------------------------------------------------------------------------------------


def ago(*seconds: float) -> list[datetime]:
    return [NOW - timedelta(seconds=s) for s in seconds]


@pytest.mark.parametrize(
    ("attempts", "held"),
    [
        ([], False),
        (ago(14), True),
        (ago(16), False),
        (ago(60, 29), True),
        (ago(60, 31), False),
        (ago(300, 200, 100), True),
        (ago(700, 650, 620), False),
    ],
)
def test_restarts_wait_longer_each_time_and_end(attempts: list[datetime], held: bool) -> None:
    found = held_back([(NOW - begun).total_seconds() for begun in attempts], False, LIMITS)
    assert (found is not None) is held
    assert (found is not None and found.for_good) is (len(attempts) == 3 and held)


def test_who_was_handed_to_people_is_theirs() -> None:
    assert held_back([], True, LIMITS) == Held(reason="people were asked to look at it", for_good=True, told=True)


@given(st.lists(st.floats(0, 5_000), max_size=40))
def test_never_more_than_three_in_ten_minutes(offers: list[float]) -> None:
    begun: list[datetime] = []
    for offer in sorted(offers):
        now = NOW + timedelta(seconds=offer)
        if held_back([(now - one).total_seconds() for one in begun], False, LIMITS) is None:
            begun.append(now)
    for first, fourth in zip(begun, begun[3:], strict=False):
        assert fourth - first >= timedelta(seconds=600)
