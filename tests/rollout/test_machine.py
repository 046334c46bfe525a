"""The state machine as laws: whatever is observed, in whatever order, traffic ends on exactly one release."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.core.digest import Digest
from stack.core.names import HostName, ReplicaId, RolloutId, ServiceName
from stack.rollout.machine import (
    Done,
    Failed,
    ImpossibleObservation,
    Judged,
    NotWarm,
    Observation,
    Requested,
    ServiceView,
    Transition,
    step,
)
from stack.rollout.state import Phase, Placement, RolloutState, Verdict

OLD, OLDER, NEW = (Digest.of(x) for x in (b"old", b"older", b"new"))
PLACE = Placement(replica=ReplicaId("tiny-a-local-0"), host=HostName("local"), port=20001)
GOOD = Judged(verdict=Verdict.PROMOTE, reason="shown")
BAD = Judged(verdict=Verdict.ROLLBACK, reason="worse")
SILENT = Judged(verdict=Verdict.INCONCLUSIVE, reason="no data")


def begin(kind: str = "deploy", stable: Digest | None = OLD, release: Digest = NEW) -> tuple[RolloutState, ServiceView]:
    state = RolloutState(
        id=RolloutId("ro-test"),
        service=ServiceName("tiny"),
        kind=kind,  # type: ignore[arg-type]
        plan=Digest.of(b"plan"),
        release=release,
        stable=stable,
        lkg=OLDER if stable else None,
        ladder=(5, 25, 100) if stable else (100,),
    )
    weights = {"stable": 100} if stable else {}
    return state, ServiceView(stable=stable, lkg=OLDER if stable else None, weights=weights)


def drive(state: RolloutState, view: ServiceView, *seen: Observation) -> Transition:
    transition = Transition(state=state, service=view, action="", result="")
    for observation in seen:
        transition = step(transition.state, transition.service, observation)
    return transition


TO_EVAL: tuple[Observation, ...] = (Done(), Done(placements=(PLACE,)), Done(), Done(), Done())


def test_a_good_candidate_climbs_every_rung_and_becomes_stable() -> None:
    at = drive(*begin(), *TO_EVAL)
    assert at.state.phase is Phase.EVALUATING
    shares = []
    for observation in (GOOD, Done(), GOOD, Done(), GOOD, Done(), GOOD):
        at = step(at.state, at.service, observation)
        if at.state.phase is Phase.SHIFTING:
            shares.append(dict(at.service.weights))
    assert shares == [
        {"stable": 95, "candidate": 5},
        {"stable": 75, "candidate": 25},
        {"stable": 0, "candidate": 100},
    ]
    at = drive(at.state, at.service, Done(), Done())
    assert at.state.phase is Phase.PROMOTED
    assert at.service == ServiceView(stable=NEW, candidate=None, lkg=OLD, weights={"stable": 100})


def test_a_first_release_has_one_rung_and_no_last_known_good() -> None:
    at = drive(*begin(stable=None), *TO_EVAL, GOOD)
    assert at.service.weights == {"candidate": 100}
    at = drive(at.state, at.service, Done(), GOOD, Done(), Done())
    assert (at.state.phase, at.service.stable, at.service.lkg) == (Phase.PROMOTED, NEW, None)


def test_a_worse_candidate_never_saw_traffic_when_the_eval_found_it() -> None:
    at = drive(*begin(), *TO_EVAL, BAD)
    assert at.state.phase is Phase.CLEANING
    assert at.service.weights == {"stable": 100}
    assert drive(at.state, at.service, Done()).state.phase is Phase.ROLLED_BACK


@pytest.mark.parametrize("rung", [0, 1, 2])
def test_a_breach_at_any_rung_takes_traffic_back_before_anything_else(rung: int) -> None:
    at = drive(*begin(), *TO_EVAL, GOOD, Done())
    for _ in range(rung):
        at = drive(at.state, at.service, GOOD, Done())
    at = step(at.state, at.service, BAD)
    assert at.state.phase is Phase.REVERTING
    assert at.service.weights == {"stable": 100}
    at = drive(at.state, at.service, Done(), Done(), Done())
    assert (at.state.phase, at.service.stable, at.service.candidate) == (Phase.ROLLED_BACK, OLD, None)


def test_silence_pauses_and_resume_asks_the_same_rung_again() -> None:
    at = drive(*begin(), *TO_EVAL, GOOD, Done(), SILENT)
    assert (at.state.phase, at.state.verdict) == (Phase.PAUSED, Verdict.INCONCLUSIVE)
    resumed = step(at.state, at.service, Requested(what="resume", by="ann", seq=4))
    assert (resumed.state.phase, resumed.state.rung, resumed.state.requests_seen) == (Phase.HOLDING, 0, 4)
    aborted = step(at.state, at.service, Requested(what="abort", by="ann", seq=4))
    assert (aborted.state.phase, aborted.service.weights) == (Phase.REVERTING, {"stable": 100})


def gated(*gates: int) -> tuple[RolloutState, ServiceView]:
    state, view = begin()
    return replace(state, gates=gates), view


def test_a_gate_holds_the_traffic_where_it_is_until_it_is_approved() -> None:
    at = drive(*gated(100), *TO_EVAL, GOOD, Done(), GOOD, Done(), GOOD)
    assert (at.state.phase, at.state.awaiting, at.service.weights) == (
        Phase.AWAITING,
        2,
        {"stable": 75, "candidate": 25},
    )
    assert RolloutState.from_json(at.state.to_json()) == at.state
    approved = drive(at.state, at.service, Done())
    assert (approved.state.phase, approved.state.percent, approved.state.awaiting) == (Phase.SHIFTING, 100, None)
    for refused in (Failed(reason="rejected"), Requested(what="abort", by="ann", seq=1)):
        back = drive(at.state, at.service, refused)
        assert (back.state.phase, back.service.weights) == (Phase.REVERTING, {"stable": 100})


@pytest.mark.parametrize(
    ("gates", "rung", "due"), [((50, 100), 2, (50, 100)), ((6,), 1, (6,)), ((5,), 1, ()), ((), 2, ())]
)
def test_a_gate_stands_before_the_first_rung_that_reaches_it(gates: tuple[int, ...], rung: int, due: object) -> None:
    assert gated(*gates)[0].gates_before(rung) == due


def test_a_gate_before_the_first_rung_waits_before_any_client_sees_the_candidate() -> None:
    at = drive(*gated(5), *TO_EVAL, GOOD)
    assert (at.state.phase, at.state.exposed, at.service.weights) == (Phase.AWAITING, False, {"stable": 100})
    assert drive(at.state, at.service, Failed(reason="rejected")).state.phase is Phase.CLEANING


def test_what_fails_while_it_is_paused_goes_back() -> None:
    at = drive(*begin(), *TO_EVAL, GOOD, Done(), SILENT, Failed(reason="worse now"))
    assert (at.state.phase, at.service.weights) == (Phase.REVERTING, {"stable": 100})


def test_a_failing_gateway_never_ends_a_revert() -> None:
    at = drive(*begin(), *TO_EVAL, GOOD, Done(), BAD)
    for attempt in range(1, 30):
        at = step(at.state, at.service, Failed(reason="gateway down"))
        assert (at.state.phase, at.state.attempt) == (Phase.REVERTING, attempt)


def test_cleaning_gives_up_after_three_tries_and_says_that_a_person_is_needed() -> None:
    at = drive(*begin(), *TO_EVAL, BAD, *[Failed(reason="host gone")] * 3)
    assert at.state.phase is Phase.ROLLED_BACK
    assert "needs an operator" in at.state.notes[0]


def test_rollback_by_hand_takes_a_warm_last_known_good_at_once() -> None:
    at = drive(*begin("rollback", release=OLDER), Done(), Done(placements=(PLACE,)))
    assert at.state.phase is Phase.SWITCHING
    assert (at.service.stable, at.service.weights) == (OLDER, {"stable": 100})
    at = drive(at.state, at.service, Done(retire=(PLACE,)), Done(), Done())
    assert at.state.phase is Phase.ROLLED_BACK


def test_rollback_by_hand_starts_a_cold_one_first_and_keeps_traffic_until_it_is_warm() -> None:
    at = drive(*begin("rollback", release=OLDER), Done(), NotWarm(placements=(PLACE,)))
    assert (at.state.phase, at.service.stable) == (Phase.PLACING, OLD)
    failed = drive(at.state, at.service, Failed(reason="no disk"), Done())
    assert (failed.state.phase, failed.service.stable) == (Phase.FAILED, OLD)
    at = drive(at.state, at.service, Done(), Done())
    assert (at.state.phase, at.service.stable) == (Phase.SWITCHING, OLDER)


def test_preflight_without_a_place_is_a_failure() -> None:
    assert drive(*begin(), Done(), Done()).state.phase is Phase.ROLLED_BACK


def test_hosts_that_could_not_be_placed_are_left_out_and_named() -> None:
    other = replace(PLACE, replica=ReplicaId("tiny-a-gpu1-0"), host=HostName("gpu1"))
    at = drive(*begin(), Done(), Done(placements=(PLACE, other)), Done(placements=(PLACE,)))
    assert (at.state.phase, at.state.placements, at.state.notes) == (Phase.WARMING, (PLACE,), ("left out: gpu1",))
    none = drive(*begin(), Done(), Done(placements=(PLACE, other)), Done(placements=()))
    assert (none.state.phase, none.state.placements) == (Phase.CLEANING, (PLACE, other))


def test_a_final_rollout_moves_no_more() -> None:
    at = drive(*begin(), Done(), Failed(reason="no"))
    assert at.state.phase.final
    with pytest.raises(ImpossibleObservation):
        step(at.state, at.service, Done())


observations = st.one_of(
    st.just(Done()),
    st.just(Done(placements=(PLACE,))),
    st.builds(Failed, reason=st.just("x")),
    st.sampled_from([GOOD, GOOD, BAD, SILENT]),
    st.just(NotWarm(placements=(PLACE,))),
    st.builds(Requested, what=st.sampled_from(["resume", "abort", "dance"]), by=st.just("ann"), seq=st.integers(1, 99)),
)


@settings(max_examples=600)
@given(
    st.sampled_from(["deploy", "rollback"]),
    st.booleans(),
    st.sets(st.sampled_from([1, 5, 6, 25, 50, 100])),
    st.lists(observations, max_size=40),
)
def test_laws_hold_for_every_history(kind: str, first: bool, gates: set[int], history: list[Observation]) -> None:
    stable = None if first and kind == "deploy" else OLD
    state, view = begin(kind, stable, NEW if kind == "deploy" else OLDER)
    state = replace(state, gates=tuple(gates))
    proven = False
    for seen in history:
        if state.phase.final:
            break
        try:
            moved = step(state, view, seen)
        except ImpossibleObservation:
            continue
        assert RolloutState.from_json(moved.state.to_json()) == moved.state
        assert sum(moved.service.weights.values()) in ((100,) if stable else (0, 100))
        if moved.state.rung > state.rung or (moved.state.phase is Phase.PROMOTING and state.phase is Phase.HOLDING):
            allowed = state.phase is Phase.AWAITING and isinstance(seen, Done)
            assert seen == GOOD or allowed, "only a PROMOTE verdict climbs, and a gate's approval after it"
        if moved.state.phase is Phase.SHIFTING and moved.state.gates_before(moved.state.rung):
            assert state.phase is Phase.AWAITING, "a gated rung was reached without its approval"
        proven = proven or (state.phase is Phase.HOLDING and seen == GOOD)
        if moved.service.stable != stable and kind == "deploy":
            assert proven, "promoted without a verdict under traffic"
        state, view = moved.state, moved.service
    if state.phase is Phase.ROLLED_BACK and kind == "deploy":
        assert (view.stable, view.candidate, view.weights.get("candidate", 0)) == (stable, None, 0)


def test_operation_ids_are_the_same_after_a_restart_and_differ_between_attempts() -> None:
    state, _ = begin()
    again = RolloutState.from_json(state.to_json())
    assert again.operation("start-local-0") == state.operation("start-local-0") == "ro-test.start-local-0.0"
    assert replace(state, attempt=1).operation("start-local-0") == "ro-test.start-local-0.1"
