"""One release after the other on a host that can't carry both: whether, and the effects of its phases.

The decisions are ``runtimes.swap`` (beside each other, one after the other, not at all) and ``pace`` (how long that
takes); the way through the phases is ``machine``; how long nobody may serve is ``pause``. Each effect may be repeated
after a crash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from stack.config.stack_yaml import ServiceSettings
from stack.core.clock import Clock
from stack.core.errors import Refused, StackError
from stack.core.names import HostName, ServiceName
from stack.core.release import Release
from stack.gateway.control import GatewayControl
from stack.gateway.errors import GatewayUnavailable
from stack.rollout.hosts import HostOperationFailed, Hosts
from stack.rollout.machine import Done, Failed, Observation
from stack.rollout.pace import History, pace_of
from stack.rollout.pause import allowed_s, paused_s
from stack.rollout.plan import Plan
from stack.rollout.routing_push import RoutePusher
from stack.rollout.state import Placement, RolloutState, Swap
from stack.rollout.worker import Context
from stack.runtimes.driver import driver_for
from stack.runtimes.fit import FitReport
from stack.runtimes.swap import Pace, SwapPlan, plan_swap
from stack.runtimes.warm import wait_ready
from stack.store.rows import ReplicaRow
from stack.store.store import Store

_LOOKED_AT = 20
_BUSY_S = 10.0
_LOOK_S = 0.1
ALLOW = "Allow a pause: `stackctl deploy --accept-pause SECONDS`, or rollout.longest_pause_s in stack.yaml"


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a release gets onto one host; ``ends``: the replicas that make room for it."""

    plan: SwapPlan
    report: FitReport
    ends: tuple[Placement, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Swapping:
    """See the module."""

    store: Store
    hosts: Hosts
    services: Mapping[ServiceName, ServiceSettings]
    control: GatewayControl
    routes: RoutePusher
    clock: Clock

    def preflight(self, state: RolloutState, context: Context) -> tuple[tuple[Placement, ...], Swap | None]:
        """Where the replicas will run: beside those that are there, or else after them. Raises with the reason."""
        try:
            return self.hosts.preflight(state, context), None
        except Refused as refusal:
            names = self.services[state.service].hosts
            if state.stable is None or len(names) != 1 or not self._serving(state.service, names[0]):
                raise
            return self._instead(state, names[0], context, refusal)

    def _instead(
        self, state: RolloutState, name: HostName, context: Context, refusal: Refused
    ) -> tuple[tuple[Placement, ...], Swap | None]:
        with self.store.reading() as tx:
            longest = allowed_s(tx.plan(state.plan))
        way = self.way(name, self.hosts.release(state.release), self.services[state.service], longest)
        context.evidence("way", {"host": name, "longest_s": longest, **way.plan.to_json()})
        if way.plan.way == "refused":
            raise Refused(way.plan.reason) from refusal
        places = self.hosts.places(state, (name,))
        if way.plan.way == "side-by-side":  # it fits by now
            return places, None
        context.tell("progress", f"{name}: {way.plan.reason}")
        swap = Swap(ends=way.ends, predicted_s=round(way.plan.pause_s or 0.0, 1), longest_s=longest)
        return places, swap

    def way(self, name: HostName, release: Release, settings: ServiceSettings, longest_s: float) -> Way:
        """How this release would get onto this host now."""
        room = self.hosts.room
        report = room.fit_on(name, room.model(release), release, settings.replicas)
        ends = self._serving(settings.name, name)
        asked = not report.fits and bool(ends)
        pace = pace_of(self._histories(settings.name, release), len(ends)) if asked else Pace()
        old = sum(room.takes(row) for row in ends) if asked and len(settings.hosts) == 1 else None
        plan = plan_swap(report, old_bytes=old, pace=pace, longest_pause_s=longest_s)
        if plan.way == "refused" and ends:
            plan = replace(plan, reason=plan.reason + _advice(plan, pace, longest_s, len(settings.hosts)))
        return Way(plan=plan, report=report, ends=tuple(_place(row) for row in ends))

    def ways(self, plan: Plan, *, ask: bool) -> dict[str, str]:
        """The same for all hosts of a plan, in words; unless ``ask``, nobody goes to other machines for it."""
        settings, longest = self.services[plan.service], allowed_s(plan.to_json())
        found = {}
        for name in settings.hosts:
            if not ask and self.hosts.inventory[name].connection != "local":
                found[str(name)] = "asked when it begins, or with `stackctl deploy --dry-run`"
                continue
            try:
                found[str(name)] = _words(self.way(name, plan.release, settings, longest).plan)
            except StackError as error:
                found[str(name)] = f"not known: {error.message}"
        return found

    def _serving(self, service: ServiceName, host: HostName) -> tuple[ReplicaRow, ...]:
        """What would have to end there: nothing, if stable is not among it."""
        with self.store.reading() as tx:
            rows = tx.replicas(service=service, live_only=True)
        mine = tuple(r for r in rows if r.host == host and r.slice in ("stable", "lkg") and r.state == "ready")
        return mine if any(r.slice == "stable" for r in mine) else ()

    def _histories(self, service: ServiceName, release: Release) -> list[History]:
        """Of the newest rollouts of this service that brought in a release on the same runtime."""
        wanted = (release.runtime.engine, release.runtime.distribution)
        with self.store.reading() as tx:
            rows = [r for r in tx.rollouts(limit=_LOOKED_AT, service=service) if r.closed]
            states = [RolloutState.from_json(dict(r.state)) for r in rows]
            runtimes = {s.id: tx.release(s.release).runtime for s in states}
            same = [s.id for s in states if (runtimes[s.id].engine, runtimes[s.id].distribution) == wanted]
            return [History(evidence=tx.evidence(i), events=tx.events(i, after=0, limit=100_000)) for i in same]

    # -- the effects, in the order of the phases
    def place(self, state: RolloutState, context: Context) -> Observation:
        """PLACING: everything that needs no room."""
        self.hosts.place(state, context)
        return Done(placements=state.placements)

    def queue(self, state: RolloutState, context: Context) -> Observation:
        """QUEUEING: new requests wait in the gateway."""
        version = self.routes.push(context.writing)
        context.tell("traffic", f"requests wait since routing table {version}", version=version)
        return Done()

    def drain(self, state: RolloutState, context: Context) -> Observation:
        """DRAINING: running answers come to their end, then the old replicas."""
        ends = _swap(state).ends
        self._idle(ends, context, None)
        left = self.hosts.drain(state, ends, "swap-out", context)
        return Failed(reason="not known to have ended: " + ", ".join(left)) if left else Done()

    def start(self, state: RolloutState, context: Context) -> Observation:
        """STARTING: there must be room now, whatever was predicted."""
        settings, release, room = self.services[state.service], self.hosts.release(state.release), self.hosts.room
        own = frozenset(p.replica for p in (*state.placements, *_swap(state).ends))
        host = state.placements[0].host
        report = room.fit_on(host, room.model(release), release, settings.replicas, without=own)
        context.evidence("fit", {"host": host, **report.to_json()})
        if not report.fits:
            return Failed(reason=f"it does not fit either once the old replicas have ended: {report.reason}")
        self.hosts.start(state, context)
        return Done()

    def restore(self, state: RolloutState, context: Context) -> Observation:
        """RESTORING: requests wait, the new replicas end, stable's start again and answer."""
        try:
            self.routes.push(context.writing)
        except GatewayUnavailable as error:
            context.tell("traffic", error.message)  # traffic goes back in REVERTING, which insists on the gateway
        self._idle(state.placements, context, _BUSY_S)
        if left := self.hosts.drain(state, state.placements, "swap-back", context):
            return Failed(reason="not known to have ended: " + ", ".join(left))
        with self.store.reading() as tx:
            rows = [row for place in _swap(state).ends if (row := tx.replica(place.replica)) is not None]
        for row in (r for r in rows if r.slice == "stable"):
            self._bring_back(state, row, context)
        return Done()

    def _bring_back(self, state: RolloutState, row: ReplicaRow, context: Context) -> None:
        release = self.hosts.release(row.release)
        operation = state.operation(f"restore-{row.id}")
        context.tell("progress", f"{row.id} starts again")
        self.hosts.ensure(operation, "rollback.yml", row.release, _place(row), context)
        base = f"http://{self.hosts.inventory[row.host].address}:{row.port}"
        deadline = self.services[state.service].rollout.timeouts.ready_s
        try:
            wait_ready(base, driver_for(release.runtime.engine), release, deadline_s=deadline, clock=self.clock)
        except Refused as error:
            raise HostOperationFailed(
                error.message, operation="rollback.yml", host=row.host, status="did not bring it back"
            ) from error

    def served_again(self, state: RolloutState, context: Context) -> None:
        """Requests are answered again: keep how long they waited, beside what was predicted. Once for each pause."""
        swap, paused = state.swap, paused_s(state, self.clock.now())
        if swap is None or paused is None:
            return
        with self.store.reading() as tx:
            told = [e.body["served_by"] for e in tx.evidence(state.id) if e.kind == "pause"]
        by = "the old release" if swap.back else "the new release"
        if by in told:
            return
        figures = {"predicted_s": swap.predicted_s, "measured_s": round(paused, 1), "longest_s": swap.longest_s}
        context.evidence("pause", {**figures, "served_by": by})
        said = f"{swap.predicted_s:g} s were predicted, {swap.longest_s:g} s allowed"
        context.tell("traffic", f"requests waited {paused:.1f} s until {by} served: {said}")

    def _idle(self, places: Iterable[Placement], context: Context, limit_s: float | None) -> None:
        """Until the gateway has nothing under way there; with a limit, no longer than that."""
        wanted, began = {str(p.replica) for p in places}, self.clock.monotonic()
        while limit_s is None or self.clock.monotonic() - began < limit_s:
            context.check()
            try:
                targets = self.control.counters()["targets"]
            except GatewayUnavailable:
                targets = None
            if targets is not None and not any(row["inflight"] for name, row in targets.items() if name in wanted):
                return
            self.clock.sleep(_LOOK_S)


def _words(plan: SwapPlan) -> str:
    pause = f", pause about {plan.pause_s:.0f} s" if plan.way == "queue-swap" and plan.pause_s is not None else ""
    return f"{plan.way.replace('side-by-side', 'side by side')}{pause}: {plan.reason}"


def _advice(plan: SwapPlan, pace: Pace, longest_s: float, hosts: int) -> str:
    """What would help, after the reason of a refusal."""
    if hosts > 1:
        return "; one after the other is done for services on one host only"
    if "but the pause is" not in plan.reason:
        return ""
    known = pace.pause_s is not None and pace.pause_s > longest_s
    return f". {ALLOW}" if known else ": no start of this runtime was measured in a rollout of this service"


def _place(row: ReplicaRow) -> Placement:
    return Placement(replica=row.id, host=row.host, port=row.port)


def _swap(state: RolloutState) -> Swap:
    if state.swap is None:
        raise Refused(f"rollout {state.id} is in {state.phase} without a swap")
    return state.swap
