"""The rollout state machine: pure. ``step(state, service, observation) -> Transition``; the worker does the rest.

The way of a deploy (numbers repeated in the code)::

    1 PLANNED    -> PREFLIGHT                 the plan was accepted
    2 PREFLIGHT  -> PLACING                   fits, ports free, artifact verified, runtime locked
    3 PLACING    -> WARMING                   Ansible: runtime installed, artifact placed, replica started
    4 WARMING    -> SMOKING                   three-part health and real completions
    5 SMOKING    -> EVALUATING                known answers
    6 EVALUATING -> SHIFTING                  paired eval against stable, before any client sees the candidate
    7 SHIFTING   -> HOLDING                   the gateway acknowledged this rung's weights
    8 HOLDING    -> SHIFTING | PROMOTING      the verdict on this rung is PROMOTE; next rung, or all of it
    9 PROMOTING  -> RETIRING -> PROMOTED      candidate is stable, the old stable is last known good and stays warm
   10 anything   -> REVERTING -> CONFIRMING -> CLEANING -> ROLLED_BACK
                                              traffic back first, then smoke on what serves, then the hosts
   11 no evidence-> PAUSED                    INCONCLUSIVE: waits for resume (same rung again) or abort (10)
   15 before a rung that the policies gate: AWAITING, with the traffic as it is, until it is approved -> SHIFTING;
      rejected, or the candidate fails meanwhile: (10)

and of a rollback by hand::

   12 PLANNED    -> CHECKING
   13 CHECKING   -> SWITCHING | PLACING       the last known good is warm | start it first, then WARMING
   14 SWITCHING  -> CONFIRMING -> RETIRING -> ROLLED_BACK

and where the new replicas don't fit beside the old ones, one after the other (``state.swap``); of a rollback by hand,
without the steps in brackets::

   16 PLACING    -> [MEASURING] -> QUEUEING  placed but not started; [how well stable does; approvals] while it serves
   17 QUEUEING   -> DRAINING -> STARTING -> WARMING [-> SMOKING -> EVALUATING -> SHIFTING to 100 %]
                                              requests wait; running streams end, then the old replicas; the new start
   18 from QUEUEING on, whatever fails, is not shown, or takes longer than it may
                -> RESTORING -> REVERTING    the new replicas end, the old ones start, then traffic back (10)

Nothing here reads a clock, a file or a socket. Whatever can't be told from the observation is a failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stack.core.digest import Digest
from stack.core.errors import StackError
from stack.rollout.state import Phase, Placement, RolloutState, Swap, Verdict

CLEANING_ATTEMPTS = 3


class ImpossibleObservation(StackError):
    """The rollout {rollout} is in phase {phase}, where {observation} can't happen."""


@dataclass(frozen=True, kw_only=True)
class ServiceView:
    """What a service routes to: releases by role, and per-cent weights by slice (sum 100, or empty: nothing)."""

    stable: Digest | None = None
    candidate: Digest | None = None
    lkg: Digest | None = None
    weights: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Done:
    """The phase's effect succeeded. ``placements``: what PREFLIGHT chose, what PLACING started, or where CHECKING found
    the last known good running.

    ``retire``: replicas of releases that no role needs any more. ``swap``: how PREFLIGHT would make room, if it must.
    """

    placements: tuple[Placement, ...] | None = None
    retire: tuple[Placement, ...] | None = None
    swap: Swap | None = None


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The phase's effect failed, for this reason. ``left``: replicas that are not known to have ended."""

    reason: str
    left: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A verdict with its reason. Rungs go up on PROMOTE only."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True, kw_only=True)
class NotWarm:
    """CHECKING found no healthy replica of the last known good: it must be started at these places."""

    placements: tuple[Placement, ...]
    swap: Swap | None = None


@dataclass(frozen=True, kw_only=True)
class Requested:
    """An operator asked: ``resume`` or ``abort``; ``seq`` is the request's number, so that it is heard once."""

    what: str
    by: str
    seq: int
    reason: str = ""


Observation = Done | Failed | Judged | NotWarm | Requested


@dataclass(frozen=True, kw_only=True)
class Transition:
    """What to commit, in one transaction: the new state, the service's new view, and the record of it."""

    state: RolloutState
    service: ServiceView
    action: str
    result: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def step(state: RolloutState, service: ServiceView, seen: Observation) -> Transition:
    """The next state. Raises ImpossibleObservation for what can't follow; never moves a final rollout."""
    if state.phase.final:
        raise _impossible(state, seen)
    match seen:
        case Requested():
            return _asked(state, service, seen)
        case Judged():
            return _judged(state, service, seen)
        case Failed():
            return _failed(state, service, seen.reason, seen.left)
        case NotWarm():
            if state.phase is not Phase.CHECKING:
                raise _impossible(state, seen)
            cold = replace(state, placements=seen.placements, swap=seen.swap)
            return _go(cold, service, Phase.PLACING, "last known good not warm")  # 13
        case Done():
            return _done(state, service, seen)


def view_at(state: RolloutState, service: ServiceView) -> ServiceView:
    """The service while the candidate has ``state.percent`` of the traffic."""
    if state.stable is None:
        return replace(service, candidate=state.release, weights={"candidate": 100})
    weights = {"stable": 100 - state.percent, "candidate": state.percent}
    return replace(service, candidate=state.release, weights=weights)


def view_without(service: ServiceView) -> ServiceView:
    """The service with all its traffic on stable (on nothing, where there is no stable)."""
    return replace(service, candidate=None, weights={"stable": 100} if service.stable else {})


def _done(state: RolloutState, service: ServiceView, seen: Done) -> Transition:
    match state.phase:
        case Phase.PLANNED if state.kind == "deploy":
            return _go(state, service, Phase.PREFLIGHT)  # 1
        case Phase.PLANNED:
            return _go(state, service, Phase.CHECKING)  # 12
        case Phase.PREFLIGHT:
            if not seen.placements:
                return _failed(state, service, "preflight named no place for the candidate")
            ladder = (100,) if seen.swap else state.ladder  # 16: there is nobody to share traffic with
            placed = replace(state, placements=seen.placements, swap=seen.swap, ladder=ladder)
            return _go(placed, replace(service, candidate=state.release), Phase.PLACING)  # 2
        case Phase.CHECKING:
            return _switch(replace(state, placements=seen.placements or ()), service)  # 13
        case Phase.PLACING if seen.placements == ():
            return _failed(state, service, "no replica was placed")
        case Phase.PLACING if state.swap is not None:
            return _go(state, service, Phase.MEASURING if state.kind == "deploy" else Phase.QUEUEING)  # 16
        case Phase.MEASURING:
            return _toward(state, service, 0)  # 16
        case Phase.QUEUEING if state.swap is not None:
            return _go(_timed(state), service, Phase.DRAINING)  # 17
        case Phase.DRAINING:
            return _go(state, service, Phase.STARTING)  # 17
        case Phase.STARTING:
            return _go(state, service, Phase.WARMING)  # 17
        case Phase.RESTORING:
            return _go(_timed(state), service, Phase.REVERTING)  # 18
        case Phase.PLACING:
            return _go(_without_lost(state, seen.placements), service, Phase.WARMING)  # 3
        case Phase.WARMING if state.kind == "rollback":
            return _switch(_without_lost(state, seen.placements), service)  # 13
        case Phase.WARMING if seen.placements == ():
            return _failed(state, service, "no replica is warm")
        case Phase.WARMING:
            return _go(_without_lost(state, seen.placements), service, Phase.SMOKING)  # 4
        case Phase.SMOKING:
            return _go(state, service, Phase.EVALUATING)  # 5
        case Phase.AWAITING if state.awaiting is not None and state.swap is not None:
            return _go(replace(state, awaiting=None), service, Phase.QUEUEING)  # 16
        case Phase.AWAITING if state.awaiting is not None:
            return _shift(replace(state, awaiting=None), service, state.awaiting)  # 15
        case Phase.SHIFTING:
            return _go(state, service, Phase.HOLDING)  # 7
        case Phase.PROMOTING:
            return _go(replace(state, retire=seen.retire or ()), service, Phase.RETIRING)  # 9
        case Phase.SWITCHING:
            return _go(replace(state, retire=seen.retire or ()), service, Phase.CONFIRMING)  # 14
        case Phase.REVERTING:
            return _go(state, service, Phase.CONFIRMING)  # 10
        case Phase.CONFIRMING:
            given_up = state.kind == "deploy" or (state.swap is not None and state.swap.back)
            return _go(state, service, Phase.CLEANING if given_up else Phase.RETIRING)  # 10, 14, 18
        case Phase.RETIRING:
            return _go(state, service, Phase.PROMOTED if state.kind == "deploy" else Phase.ROLLED_BACK)  # 9, 14
        case Phase.CLEANING:
            return _go(state, service, Phase.ROLLED_BACK if state.kind == "deploy" else Phase.FAILED)  # 10
        case _:
            raise _impossible(state, seen)


def _without_lost(state: RolloutState, started: tuple[Placement, ...] | None) -> RolloutState:
    """3: what could not be placed, where that is put up with, is not part of it any more."""
    lost = [p for p in state.placements if started is not None and p not in started]
    if not lost or started is None:
        return state
    note = f"left out: {', '.join(sorted({p.host for p in lost}))}"
    return replace(state, placements=started, notes=(*state.notes, note))


def _judged(state: RolloutState, service: ServiceView, seen: Judged) -> Transition:
    if state.phase not in (Phase.EVALUATING, Phase.HOLDING):
        raise _impossible(state, seen)
    judged = replace(state, verdict=seen.verdict, reason=seen.reason)
    if seen.verdict is Verdict.ROLLBACK:
        return _failed(judged, service, seen.reason)  # 10
    if seen.verdict is Verdict.INCONCLUSIVE and state.swap is not None and state.phase is Phase.EVALUATING:
        return _failed(judged, service, seen.reason)  # 18: nobody serves while it would wait for a person
    if seen.verdict is Verdict.INCONCLUSIVE:
        return _go(replace(judged, paused_from=state.phase), service, Phase.PAUSED, seen.reason)  # 11
    if state.phase is Phase.EVALUATING:
        return _shift(judged, service, 0) if state.swap else _toward(judged, service, 0)  # 17, 6
    if state.rung + 1 < len(state.ladder):
        return _toward(judged, service, state.rung + 1)  # 8
    promoted = ServiceView(stable=state.release, candidate=None, lkg=state.stable, weights={"stable": 100})
    return _go(judged, promoted, Phase.PROMOTING, seen.reason)  # 8


def _toward(state: RolloutState, service: ServiceView, rung: int) -> Transition:
    if not state.gates_before(rung):
        return _go(state, service, Phase.QUEUEING) if state.swap else _shift(state, service, rung)  # 16
    waiting = f"for approval to go to {state.ladder[rung]} %"
    return _go(replace(state, awaiting=rung), service, Phase.AWAITING, waiting)  # 15


def _shift(state: RolloutState, service: ServiceView, rung: int) -> Transition:
    at = replace(state, rung=rung, exposed=True, attempt=0)
    view = view_at(at, service)
    return _go(at, view, Phase.SHIFTING, f"{view.weights.get('candidate', 0)} %")


def _switch(state: RolloutState, service: ServiceView) -> Transition:
    view = ServiceView(stable=state.release, candidate=None, lkg=state.release, weights={"stable": 100})
    return _go(replace(state, exposed=True, verdict=Verdict.ROLLBACK), view, Phase.SWITCHING)


def _failed(state: RolloutState, service: ServiceView, reason: str, left: tuple[str, ...] = ()) -> Transition:
    """10: back, from wherever it is. What is needed to be safe is tried until it works."""
    match state.phase:
        case Phase.RESTORING | Phase.REVERTING | Phase.PROMOTING | Phase.SWITCHING:
            again = replace(_timed(state), attempt=state.attempt + 1)
            return _go(again, service, state.phase, f"again: {reason}", keep_attempt=True)
        case Phase.RETIRING:
            ended = tuple(place for place in state.retire if place.replica not in left)
            noted = replace(state, retire=ended, notes=(*state.notes, f"needs an operator: {reason}"))
            return _go(noted, service, Phase.PROMOTED if state.kind == "deploy" else Phase.ROLLED_BACK, reason)
        case Phase.CONFIRMING:
            noted = replace(state, notes=(*state.notes, f"what serves now failed its smoke prompts: {reason}"))
            if state.kind == "rollback":
                return _go(replace(noted, reason=reason), service, Phase.FAILED, reason)
            return _go(noted, service, Phase.CLEANING, reason)
        case Phase.CLEANING if state.attempt + 1 < CLEANING_ATTEMPTS:
            again = replace(state, attempt=state.attempt + 1)
            return _go(again, service, Phase.CLEANING, f"again: {reason}", keep_attempt=True)
        case Phase.CLEANING:
            ended = tuple(p for p in state.placements if p.replica not in left or state.kind == "rollback")
            noted = replace(state, placements=ended, notes=(*state.notes, f"needs an operator: {reason}"))
            return _go(noted, service, Phase.ROLLED_BACK if state.kind == "deploy" else Phase.FAILED, reason)
        case _:
            return _back(replace(state, reason=reason), service, reason)


def _timed(state: RolloutState) -> RolloutState:
    """With the time at which requests began to wait, where it began with this phase."""
    if state.swap is None or state.swap.began or state.phase not in (Phase.QUEUEING, Phase.RESTORING):
        return state
    return replace(state, swap=replace(state.swap, began=state.entered_at))


_UNASKED = (
    Phase.PLANNED,
    Phase.PREFLIGHT,
    Phase.PLACING,
    Phase.MEASURING,
    Phase.QUEUEING,
    Phase.DRAINING,
    Phase.STARTING,
)


def _back(state: RolloutState, service: ServiceView, reason: str) -> Transition:
    # What fails before there is anything to ask says nothing about the release: no verdict.
    judged = replace(state, verdict=None if state.phase in _UNASKED else Verdict.ROLLBACK)
    if state.swap is not None and (state.swap.began or state.phase is Phase.QUEUEING):
        swap = replace(_timed(state).swap or state.swap, back=True)
        if state.phase in (Phase.HOLDING, Phase.PAUSED):
            swap = replace(swap, began="")  # the new replicas served: another pause begins
        return _go(replace(judged, swap=swap), view_without(service), Phase.RESTORING, reason)  # 18
    if state.kind == "rollback":
        return _go(judged, service, Phase.CLEANING if state.placements else Phase.FAILED, reason)
    if state.exposed:
        return _go(judged, view_without(service), Phase.REVERTING, reason)
    without = replace(view_without(service), weights=service.weights)
    return _go(judged, without, Phase.CLEANING if state.placements else Phase.ROLLED_BACK, reason)


def _asked(state: RolloutState, service: ServiceView, seen: Requested) -> Transition:
    heard = replace(state, requests_seen=max(seen.seq, state.requests_seen))
    if seen.what == "resume" and state.phase is Phase.PAUSED and state.paused_from is not None:
        again = replace(heard, paused_from=None, attempt=state.attempt + 1, verdict=None, reason="")
        return _go(again, service, state.paused_from, f"resumed by {seen.by}", keep_attempt=True)  # 11
    if seen.what == "abort" and _abortable(state):
        why = f"aborted by {seen.by}" + (f": {seen.reason}" if seen.reason else "")
        return _back(replace(heard, reason=why), service, why)  # 11
    return Transition(
        state=heard, service=service, action=f"rollout.{seen.what}", result="ignored", facts={"phase": str(state.phase)}
    )


def _abortable(state: RolloutState) -> bool:
    """Past the point of promotion, and once it is going back, there is nothing left to abort."""
    return state.kind == "deploy" and state.phase in (
        Phase.PLANNED,
        Phase.PREFLIGHT,
        Phase.PLACING,
        Phase.MEASURING,
        Phase.QUEUEING,
        Phase.DRAINING,
        Phase.STARTING,
        Phase.WARMING,
        Phase.SMOKING,
        Phase.EVALUATING,
        Phase.SHIFTING,
        Phase.HOLDING,
        Phase.AWAITING,
        Phase.PAUSED,
    )


def _go(
    state: RolloutState, service: ServiceView, phase: Phase, reason: str = "", *, keep_attempt: bool = False
) -> Transition:
    attempt = state.attempt if keep_attempt else 0
    moved = replace(state, phase=phase, attempt=attempt, entered_at="")
    facts = {"from": str(state.phase), "to": str(phase), "reason": reason, "weights": dict(service.weights)}
    return Transition(state=moved, service=service, action=f"rollout.{phase}", result=reason or "ok", facts=facts)


def _impossible(state: RolloutState, seen: Observation) -> ImpossibleObservation:
    return ImpossibleObservation(rollout=state.id, phase=str(state.phase), observation=type(seen).__name__)
