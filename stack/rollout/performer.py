"""Performs the effects of the phases, by handing each to the part that knows how. Holds no state of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stack.core.clock import Clock
from stack.rollout.gates import Gates
from stack.rollout.holding import Holding
from stack.rollout.hosts import Hosts
from stack.rollout.machine import Done, Failed, NotWarm, Observation
from stack.rollout.pause import PRESSED, Pressed, overdue
from stack.rollout.planner import Planner
from stack.rollout.routing_push import RoutePusher
from stack.rollout.state import Phase, Placement, RolloutState
from stack.rollout.swapping import Swapping
from stack.rollout.waiting import Waiting
from stack.rollout.worker import Context

_AS_PLANNED = frozenset(
    {
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
    }
)
"""The way forward: each step is taken only while the plan still describes it. The way back is always open."""
_TRIED_AGAIN = frozenset({Phase.RESTORING, Phase.REVERTING, Phase.PROMOTING, Phase.SWITCHING, Phase.CLEANING})
_BACKOFF_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, kw_only=True)
class RolloutPerformer:
    """The real Performer: hosts through Ansible, gates through evals, traffic through the gateway."""

    hosts: Hosts
    swapping: Swapping
    gates: Gates
    holding: Holding
    waiting: Waiting
    planner: Planner
    routes: RoutePusher
    clock: Clock

    def perform(self, state: RolloutState, context: Context) -> Observation:
        """The effect of ``state.phase``; see ``machine.py`` for the way."""
        if state.attempt and state.phase in _TRIED_AGAIN:
            self.clock.sleep(_BACKOFF_S[min(state.attempt, len(_BACKOFF_S) - 1)])
        if state.phase in _AS_PLANNED and (other := self._departed(state)):
            return Failed(reason=f"what would be done is not what was planned any more: {', '.join(other)}")
        if late := overdue(state, self.clock.now()):
            return Failed(reason=late)
        if state.swap is not None and state.phase in PRESSED:
            context = Pressed(inner=context, state=state, clock=self.clock)
        effects: dict[Phase, Callable[[RolloutState, Context], Observation]] = {
            Phase.PLANNED: _nothing,
            Phase.CHECKING: self._checking,
            Phase.PREFLIGHT: self._preflight,
            Phase.PLACING: self._placing,
            Phase.MEASURING: self.gates.measure,
            Phase.QUEUEING: self.swapping.queue,
            Phase.DRAINING: self.swapping.drain,
            Phase.STARTING: self.swapping.start,
            Phase.RESTORING: self.swapping.restore,
            Phase.WARMING: self._warming,
            Phase.SMOKING: self.gates.smoke,
            Phase.EVALUATING: self.gates.evaluate,
            Phase.SHIFTING: self._push,
            Phase.HOLDING: self.holding.hold,
            Phase.AWAITING: self.waiting.for_approval,
            Phase.PAUSED: self.waiting.for_a_person,
            Phase.PROMOTING: self._push_and_list_retired,
            Phase.SWITCHING: self._push_and_list_retired,
            Phase.REVERTING: self._push,
            Phase.CONFIRMING: self.gates.confirm,
            Phase.RETIRING: self._retiring,
            Phase.CLEANING: self._cleaning,
        }
        return effects[state.phase](state, context)

    def _departed(self, state: RolloutState) -> tuple[str, ...]:
        forward = state.kind == "deploy" or state.phase is Phase.PLANNED
        return self.planner.departures(state) if forward else ()

    def _preflight(self, state: RolloutState, context: Context) -> Observation:
        placements, swap = self.swapping.preflight(state, context)
        return Done(placements=placements, swap=swap)

    def _placing(self, state: RolloutState, context: Context) -> Observation:
        return self.swapping.place(state, context) if state.swap else Done(placements=self.hosts.start(state, context))

    def _warming(self, state: RolloutState, context: Context) -> Observation:
        return Done(placements=self.hosts.warm(state, context))

    def _checking(self, state: RolloutState, context: Context) -> Observation:
        warm = self.hosts.warm_replicas(state, context)
        if warm:
            return Done(placements=warm)
        placements, swap = self.swapping.preflight(state, context)
        return NotWarm(placements=placements, swap=swap)

    def _push(self, state: RolloutState, context: Context) -> Observation:
        version = self.routes.push(context.writing)
        context.tell("traffic", f"gateway acknowledged routing table {version}", version=version)
        self.swapping.served_again(state, context)
        return Done()

    def _push_and_list_retired(self, state: RolloutState, context: Context) -> Observation:
        self._push(state, context)
        return Done(retire=self.hosts.retired(state))

    def _retiring(self, state: RolloutState, context: Context) -> Observation:
        return self._drain(state, state.retire, "retire", context)

    def _cleaning(self, state: RolloutState, context: Context) -> Observation:
        return self._drain(state, state.placements, "clean", context)

    def _drain(self, state: RolloutState, places: tuple[Placement, ...], name: str, context: Context) -> Observation:
        left = self.hosts.drain(state, places, name, context)
        return Failed(reason="not known to have ended: " + ", ".join(left), left=left) if left else Done()


def _nothing(state: RolloutState, context: Context) -> Observation:
    return Done()
