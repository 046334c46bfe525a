"""One release after the other, as laws: whatever is seen, it ends on exactly one release, with proof or as before."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.core.clock import stamp, unstamp
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
from stack.rollout.pause import overdue, paused_s, waits
from stack.rollout.state import Phase, Placement, RolloutState, Swap, Verdict
from stack.rollout.tables import placed, recast, routing_table
from stack.store.rows import ReplicaRow, ServiceRow

OLD, OLDER, NEW = (Digest.of(x) for x in (b"old", b"older", b"new"))
NOON = unstamp("2026-03-29T00:59:00.000000Z")
PLACE = Placement(replica=ReplicaId("tiny-b-local-0"), host=HostName("local"), port=20001)
ENDS = tuple(
    Placement(replica=ReplicaId(f"tiny-{n}-local-0"), host=HostName("local"), port=20010 + i)
    for i, n in enumerate(("stable", "lkg"))
)
SWAP = Swap(ends=ENDS, predicted_s=8.0, longest_s=30.0)
GOOD = Judged(verdict=Verdict.PROMOTE, reason="shown")
BAD = Judged(verdict=Verdict.ROLLBACK, reason="worse")
SILENT = Judged(verdict=Verdict.INCONCLUSIVE, reason="no data")
CHOSEN = Done(placements=(PLACE,), swap=SWAP)
NOBODY_SERVES = {
    Phase.QUEUEING, Phase.DRAINING, Phase.STARTING, Phase.WARMING, Phase.SMOKING, Phase.EVALUATING, Phase.RESTORING,
}  # fmt: skip
TO_QUEUE: tuple[Observation, ...] = (Done(), CHOSEN, Done(), Done())
TO_EVAL: tuple[Observation, ...] = (*TO_QUEUE, *[Done()] * 5)


class World:
    """The rollout, its service and its replicas, as the worker keeps them; a second passes with each step."""

    def __init__(self, kind: str = "deploy", gates: tuple[int, ...] = ()) -> None:
        self.now = NOON
        self.state = RolloutState(
            id=RolloutId("ro-b"),
            service=ServiceName("tiny"),
            kind=kind,  # type: ignore[arg-type]
            plan=Digest.of(b"plan"),
            release=NEW if kind == "deploy" else OLDER,
            stable=OLD,
            lkg=OLDER,
            ladder=(5, 25, 100),
            gates=gates,
            entered_at=stamp(NOON),
        )
        self.view = ServiceView(stable=OLD, lkg=OLDER, weights={"stable": 100})
        slices = ("stable", "lkg") if kind == "deploy" else ("stable",)
        releases = {"stable": OLD, "lkg": OLDER}
        self.rows = {
            place.replica: self._row(place, releases[name], name) for place, name in zip(ENDS, slices, strict=False)
        }
        self.seen: list[Phase] = [self.state.phase]

    def _row(self, place: Placement, release: Digest, role: str) -> ReplicaRow:
        return ReplicaRow(
            id=place.replica, service=ServiceName("tiny"), release=release, host=place.host, port=place.port,
            state="ready", slice=role, updated_at=self.now,
        )  # fmt: skip

    def step(self, *observed: Observation) -> Transition:
        for seen in observed:
            self.now += timedelta(seconds=1)
            moved = step(self.state, self.view, seen)
            before = self.state.phase
            state = replace(moved.state, entered_at=moved.state.entered_at or stamp(self.now))
            self.state, self.view = RolloutState.from_json(state.to_json()), moved.service
            if self.state.phase is Phase.PLACING:
                for row in placed(self.state, self.rows.values(), self.now):
                    self.rows[row.id] = row
            for row in recast(before, self.state, tuple(self.rows.values())):
                self.rows[row.id] = row
            self.seen.append(self.state.phase)
        return moved

    def routed(self) -> tuple[set[str], float]:
        """Which replicas the gateway would know, and how long a request would wait for one."""
        service = ServiceRow(
            name=ServiceName("tiny"), stable=self.view.stable, candidate=self.view.candidate, lkg=self.view.lkg,
            weights=dict(self.view.weights), updated_at=self.now,
        )  # fmt: skip
        live = [r for r in self.rows.values() if r.live]

        class AnyRelease(dict):  # type: ignore[type-arg]
            def __missing__(self, key: Digest) -> object:
                return type("R", (), {"model": "m", "served_model": "m"})()

        open_states = [] if self.state.phase.final else [self.state]
        table = routing_table(1, [service], AnyRelease(), live, [], {}, {"local": "127.0.0.1"}, waits(open_states))
        (found,) = table["services"]
        weighed = {t["id"] for t in found["targets"] if found["weights"].get(t["slice"])}
        return weighed, found.get("hold_s", 0.0)


def states(world: World) -> dict[str, tuple[str, str]]:
    return {name: (world.rows[ReplicaId(name)].slice, world.rows[ReplicaId(name)].state) for name in world.rows}


def test_the_new_release_takes_the_place_of_the_old_one() -> None:
    world = World()
    world.step(*TO_QUEUE)
    assert (world.state.phase, world.state.ladder) == (Phase.QUEUEING, (100,))
    assert world.routed() == (set(), 38.0), "the pause that is allowed, and the way back"
    began = world.state.entered_at
    world.step(*[Done()] * 5, GOOD)
    assert world.state.phase is Phase.SHIFTING
    assert world.state.swap is not None and world.state.swap.began == began
    assert world.routed()[0] == {"tiny-b-local-0"}
    world.step(Done(), GOOD, Done(), Done())
    assert world.state.phase is Phase.PROMOTED
    assert world.view == ServiceView(stable=NEW, candidate=None, lkg=OLD, weights={"stable": 100})
    assert states(world) == {
        "tiny-stable-local-0": ("lkg", "stopped"),
        "tiny-lkg-local-0": ("retired", "stopped"),
        "tiny-b-local-0": ("stable", "ready"),
    }
    assert world.routed() == ({"tiny-b-local-0"}, 0.0)


def test_all_that_needs_no_pause_comes_before_it() -> None:
    world = World(gates=(25, 100))
    world.step(*TO_QUEUE)
    assert (world.state.phase, world.state.awaiting) == (Phase.AWAITING, 0), "asked for while stable serves"
    assert world.routed() == ({"tiny-stable-local-0"}, 0.0)
    world.step(Done())
    assert world.state.phase is Phase.QUEUEING
    world.step(*[Done()] * 5, GOOD)
    assert world.state.phase is Phase.SHIFTING, "and not once more"
    assert world.seen[2:6] == [Phase.PLACING, Phase.MEASURING, Phase.AWAITING, Phase.QUEUEING]


@pytest.mark.parametrize("steps", range(8))
@pytest.mark.parametrize("why", [Failed(reason="no"), Requested(what="abort", by="ann", seq=1)])
def test_whatever_fails_once_requests_wait_brings_the_old_release_back(steps: int, why: Observation) -> None:
    world = World()
    world.step(*TO_QUEUE, *(*[Done()] * 5, GOOD, Done())[:steps], why)
    assert world.state.phase is Phase.RESTORING
    assert world.view.weights == {"stable": 100}
    assert world.routed()[0] == set() and world.routed()[1] > 0
    began = world.state.swap.began if world.state.swap else ""
    world.step(Failed(reason="it does not start"), Failed(reason="again"))
    assert (world.state.phase, world.state.attempt) == (Phase.RESTORING, 2), "until it works"
    world.step(Done())
    assert world.state.phase is Phase.REVERTING
    assert world.routed()[0] == {"tiny-stable-local-0"}
    assert world.state.swap is not None and world.state.swap.began
    assert world.state.swap.began == began or steps == 7, "one pause; another one once the new release had served"
    world.step(Done(), Done(), Done())
    assert (world.state.phase, world.view.stable, world.view.candidate) == (Phase.ROLLED_BACK, OLD, None)
    assert states(world)["tiny-stable-local-0"] == ("stable", "ready")
    assert states(world)["tiny-b-local-0"] == ("retired", "stopped")


def test_what_fails_before_requests_wait_touches_nothing() -> None:
    for steps in range(2, 4):
        world = World()
        world.step(*TO_QUEUE[:steps], Failed(reason="no"))
        assert world.state.phase is Phase.CLEANING
        assert world.routed()[0] == {"tiny-stable-local-0"}
        assert Phase.RESTORING not in world.seen


def test_nobody_is_waited_for_while_nobody_serves() -> None:
    world = World()
    world.step(*TO_EVAL)
    assert world.state.phase is Phase.EVALUATING
    world.step(SILENT)
    assert (world.state.phase, world.state.verdict) == (Phase.RESTORING, Verdict.ROLLBACK)


def test_silence_under_traffic_pauses_as_ever() -> None:
    world = World()
    world.step(*TO_EVAL, GOOD, Done(), SILENT)
    assert (world.state.phase, world.routed()) == (Phase.PAUSED, ({"tiny-b-local-0"}, 0.0))
    world.step(Requested(what="resume", by="ann", seq=1), GOOD)
    assert world.state.phase is Phase.PROMOTING


def test_back_to_a_last_known_good_that_fits_only_alone() -> None:
    world = World("rollback")
    swap = replace(SWAP, ends=ENDS[:1])
    world.step(Done(), NotWarm(placements=(PLACE,), swap=swap), Done())
    assert (world.state.phase, world.routed()[0]) == (Phase.QUEUEING, set())
    world.step(*[Done()] * 4)
    assert (world.state.phase, world.view.stable) == (Phase.SWITCHING, OLDER)
    assert world.routed()[0] == {"tiny-b-local-0"}
    world.step(Done(), Done(), Done())
    assert world.state.phase is Phase.ROLLED_BACK
    assert states(world) == {"tiny-stable-local-0": ("retired", "stopped"), "tiny-b-local-0": ("stable", "ready")}


@pytest.mark.parametrize("steps", range(4))
def test_a_rollback_that_fails_once_requests_wait_leaves_what_served(steps: int) -> None:
    world = World("rollback")
    world.step(Done(), NotWarm(placements=(PLACE,), swap=replace(SWAP, ends=ENDS[:1])), Done(), *[Done()] * steps)
    world.step(Failed(reason="no"), Done(), Done(), Done(), Done())
    assert (world.state.phase, world.view.stable) == (Phase.FAILED, OLD)
    assert world.routed() == ({"tiny-stable-local-0"}, 0.0)


observations = st.one_of(
    st.just(Done()),
    st.just(CHOSEN),
    st.builds(Failed, reason=st.just("x")),
    st.sampled_from([GOOD, GOOD, BAD, SILENT]),
    st.just(NotWarm(placements=(PLACE,), swap=replace(SWAP, ends=ENDS[:1]))),
    st.builds(Requested, what=st.sampled_from(["resume", "abort", "dance"]), by=st.just("ann"), seq=st.integers(1, 99)),
)


@settings(max_examples=600)
@given(
    st.sampled_from(["deploy", "rollback"]),
    st.sets(st.sampled_from([1, 25, 100])),
    st.integers(0, 9),
    st.lists(observations, max_size=40),
)
def test_laws_hold_for_every_history(kind: str, gates: set[int], way: int, history: list[Observation]) -> None:
    """``way``: how far it has come before anything happens to it."""
    world = World(kind, tuple(gates))
    judged = False
    cold = NotWarm(placements=(PLACE,), swap=replace(SWAP, ends=ENDS[:1]))
    path = TO_EVAL if kind == "deploy" else (Done(), cold, *[Done()] * 8)
    for seen in [*path[:way], *history]:
        was = world.state
        if was.phase.final:
            break
        if was.phase is Phase.CHECKING and isinstance(seen, Done):
            continue  # it is not warm here
        try:
            world.step(seen)
        except ImpossibleObservation:
            continue
        state, (routed, hold) = world.state, world.routed()
        assert len({r.release for r in world.rows.values() if str(r.id) in routed}) <= 1 or state.swap is None
        assert routed or hold > 0, f"in {state.phase} nobody serves and nobody waits"
        assert hold == 0 or state.swap is not None
        if state.swap is not None and state.phase in NOBODY_SERVES and (state.swap.began or state.phase in (
            Phase.QUEUEING, Phase.RESTORING
        )):  # fmt: skip
            assert not routed, f"routed in {state.phase}"
        if state.phase is Phase.QUEUEING and was.phase is not Phase.QUEUEING and gates and kind == "deploy":
            assert was.phase is Phase.AWAITING, "an approval was not asked for before the pause"
        judged = judged or (was.phase is Phase.EVALUATING and seen == GOOD)
        if state.swap is not None and kind == "deploy" and state.phase is Phase.SHIFTING:
            assert judged, "traffic without an eval"
    end = world.state
    if end.phase.final and end.swap is not None:
        routed, hold = world.routed()
        assert hold == 0 and len(routed) == 1
        release = world.rows[ReplicaId(next(iter(routed)))].release
        won = end.phase is Phase.PROMOTED if kind == "deploy" else Phase.SWITCHING in world.seen
        assert release == (world.state.release if won else OLD) == world.view.stable
        assert not [r for r in world.rows.values() if r.state == "draining"]


def at(phase: Phase, began: str = "", *, back: bool = False) -> RolloutState:
    swap = replace(SWAP, began=began, back=back)
    return replace(World().state, phase=phase, swap=swap, entered_at=stamp(NOON))


@given(st.sampled_from(list(Phase)), st.floats(-100, 100), st.booleans())
def test_a_pause_ends_in_time_whatever_the_clock_does(phase: Phase, passed: float, timed: bool) -> None:
    state = at(phase, stamp(NOON) if timed else "")
    now: datetime = NOON + timedelta(seconds=passed)
    late = overdue(state, now)
    counted = phase in NOBODY_SERVES - {Phase.RESTORING} and (timed or phase is Phase.QUEUEING)
    assert bool(late) == (counted and not 0 <= (now - NOON).total_seconds() <= 30)
    assert overdue(replace(state, swap=None), now) is None


def test_how_long_nobody_serves_is_counted_from_the_table_that_made_them_wait() -> None:
    assert paused_s(at(Phase.QUEUEING), NOON + timedelta(seconds=3)) == 3
    assert paused_s(at(Phase.WARMING, stamp(NOON - timedelta(seconds=5))), NOON) == 5
    assert paused_s(at(Phase.PLACING), NOON) is None
    assert dict(waits([at(Phase.PLACING), World().state])) == {}


def test_a_state_without_a_swap_is_written_as_before_there_were_any() -> None:
    assert "swap" not in World().state.to_json()
    state = at(Phase.DRAINING, stamp(NOON), back=True)
    assert RolloutState.from_json(state.to_json()) == state
