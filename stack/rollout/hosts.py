"""What a rollout does on hosts: preflight, start, warm, drain. All changes go through Ansible and the host's fence."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stack.config.stack_yaml import ServiceSettings
from stack.core.clock import Clock
from stack.core.digest import Digest
from stack.core.errors import Refused, Unavailable
from stack.core.names import HostName, OperationId, ReplicaId, ServiceName
from stack.core.release import ModelVersion, Release
from stack.fleet.door import AnsibleDoor
from stack.fleet.values import Host, HostEvent, Operation, OperationResult
from stack.registry.store import ContentStore
from stack.rollout.abreast import ASKED, FORKS, Failure, per_host, side_by_side
from stack.rollout.loads import earlier_loads, keep, measured_bytes, predicted
from stack.rollout.pace import Stopwatch
from stack.rollout.peers import peers_for
from stack.rollout.room import Room
from stack.rollout.state import Placement, RolloutState
from stack.rollout.told import release_variables
from stack.rollout.worker import Context, stopped
from stack.runtimes.driver import driver_for
from stack.runtimes.fit import port_is_free
from stack.runtimes.health import check_health
from stack.runtimes.warm import wait_ready, warm_up
from stack.store.rows import ReplicaRow
from stack.store.store import Store

PORTS = (20000, 29999)
_TOLD = ("progress", "ok", "changed", "failed", "unreachable")


class HostOperationFailed(Refused):
    """{operation} on host {host} {status}: {detail}"""

    hint = "Nothing was routed to it. The engine's and the installer's last lines are in the rollout's events."


class ReplicaNotWarm(Refused):
    """Replica {replica} on host {host}: {detail}"""


class NoFreePort(Unavailable):
    """No free TCP port between {low} and {high} on host {host}."""

    hint = "See what listens there on the host (ss -ltn), and end what is not needed."


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """Host work of rollouts. ``inventory``: host name -> Host; ``content``: where artifacts come from."""

    store: Store
    door: AnsibleDoor
    content: ContentStore
    services: Mapping[ServiceName, ServiceSettings]
    inventory: Mapping[HostName, Host]
    clock: Clock
    memory: Mapping[HostName, int] = field(default_factory=dict)
    """Bytes that the replicas of a host may take together; a host that is not named here has no limit but its own."""

    @property
    def room(self) -> Room:
        """What there is room for."""
        return Room(
            store=self.store,
            door=self.door,
            content=self.content,
            inventory=self.inventory,
            clock=self.clock,
            memory=self.memory,
        )

    def preflight(self, state: RolloutState, context: Context) -> tuple[Placement, ...]:
        """Where the replicas will run. Raises with the reason when anything says it would not work.

        Hosts that can't carry them are left out, as many as the settings put up with.
        """
        release = self.release(state.release)
        source = self.content.materialise(release.artifact)
        context.tell("progress", f"artifact {release.artifact.short} verified: {source.name}")
        return self.places(state, self._fitting(release, self.services[state.service], context))

    def places(self, state: RolloutState, hosts: Iterable[HostName]) -> tuple[Placement, ...]:
        """Names and free ports for the replicas on these hosts."""
        settings = self.services[state.service]
        with self.store.reading() as tx:
            live = tx.replicas(live_only=True)
        taken: dict[str, set[int]] = {}
        for row in live:
            taken.setdefault(row.host, set()).add(row.port)
        return tuple(
            self._place(state, host, n, taken.setdefault(host, set()))
            for host in hosts
            for n in range(settings.replicas)
        )

    def _fitting(self, release: Release, settings: ServiceSettings, context: Context) -> tuple[HostName, ...]:
        """The hosts on which it fits; the others are named."""
        model, names = self.room.model(release), settings.hosts
        with ThreadPoolExecutor(max_workers=min(FORKS, len(names)), thread_name_prefix="preflight") as pool:
            refusals = list(pool.map(lambda n: self._unfit(n, model, release, settings, context), names))
        unfit = {name: why for name, why in zip(names, refusals, strict=True) if why}
        if len(unfit) > min(settings.rollout.tolerate_hosts, len(names) - 1):
            raise Refused("; ".join(f"{name}: {why}" if len(names) > 1 else why for name, why in unfit.items()))
        for name, why in unfit.items():
            context.tell("host", f"{name} is left out: {why}", event="failed")
            context.evidence("left-out", {"host": name, "reason": why})
        return tuple(name for name in names if name not in unfit)

    def _unfit(
        self, name: HostName, model: ModelVersion, release: Release, settings: ServiceSettings, context: Context
    ) -> str:
        """Why this host can't carry the replicas; empty if everything shows that it can."""
        try:
            report = self.room.fit_on(name, model, release, settings.replicas)
        except (Unavailable, Refused) as error:
            return error.message
        context.evidence("fit", {"host": name, **report.to_json()})
        if report.fits:
            context.tell("progress", f"fits on {name}: {report.reason}")
        return "" if report.fits else report.reason

    def _place(self, state: RolloutState, host: HostName, number: int, taken: set[int]) -> Placement:
        tail = state.id.removeprefix("ro-")
        replica = replica_id(state.service, tail, host, number)
        low, high = PORTS
        for port in random.sample(range(low, high), 200):
            if port not in taken and port_is_free(self.inventory[host].address, port):
                taken.add(port)
                return Placement(replica=replica, host=self.inventory[host].name, port=port)
        raise NoFreePort(low=low, high=high, host=host)

    def start(self, state: RolloutState, context: Context) -> tuple[Placement, ...]:
        """Install, place and start every replica of the rollout; records what the host says is really loaded.

        Hosts are worked on side by side, one host's replicas one after another. As many hosts as the settings put up
        with may fail; they are named, cleaned as far as they can be, and left out. Returns what was started.
        """
        playbook = "deploy.yml" if state.kind == "deploy" else "rollback.yml"
        source = self.content.materialise(self.release(state.release).artifact)  # read whole once, not for each host

        def start_on(places: tuple[Placement, ...]) -> None:
            for place in places:
                operation = state.operation(f"start-{place.host}-{place.replica.rpartition('-')[2]}")
                self.ensure(operation, playbook, state.release, place, context, source)

        shares = per_host(state.placements)
        failures = side_by_side(start_on, shares, allowed=self._allowed(state), kind=HostOperationFailed)
        return self._without(state, failures, context)

    def _allowed(self, state: RolloutState) -> int:
        """How many more hosts may fail. Those that were left out before count; one must remain; a swap needs all."""
        settings, there = self.services[state.service], len(per_host(state.placements))
        gone = max(0, len(set(settings.hosts)) - there)
        return 0 if state.swap else max(0, min(settings.rollout.tolerate_hosts - gone, there - 1))

    def _without(self, state: RolloutState, failures: Sequence[Failure], context: Context) -> tuple[Placement, ...]:
        """The placements that remain; the others are named, and ended where that can be had."""
        lost = {place for share, _ in failures for place in share}
        for share, error in failures:
            context.tell("host", f"{share[0].host} is left out: {error.message}", event="failed")
            context.evidence("left-out", {"host": share[0].host, "reason": error.message})
        self.drain(state, lost, "left-out", context)
        return tuple(place for place in state.placements if place not in lost)

    def place(self, state: RolloutState, context: Context) -> None:
        """Install and place on every host, and start nothing."""
        release = self.release(state.release)
        source = str(self.content.materialise(release.artifact))
        timeout = int(self.services[state.service].rollout.timeouts.place_s)
        for place, *_ in per_host(state.placements):
            variables = self.variables(release, place, source)
            self._run(state.operation(f"place-{place.host}"), "place.yml", place, variables, context, timeout)

    def ensure(
        self,
        op_id: OperationId,
        playbook: str,
        digest: Digest,
        place: Placement,
        context: Context,
        source: Path | None = None,
    ) -> None:
        """One replica of a release, running on its host. ``source``: the artifact's files, where just verified."""
        release = self.release(digest)
        result = self._run(
            op_id,
            playbook,
            place,
            self.variables(release, place, str(source or self.content.materialise(release.artifact))),
            context,
            int(self.services[ServiceName(release.service)].rollout.timeouts.place_s),
        )
        found = _observed(result, place.replica)
        if found is None:
            raise HostOperationFailed(
                "the host does not show the replica", operation=playbook, host=place.host, status="not observed"
            )
        self._note(place.replica, found, context)

    def variables(self, release: Release, place: Placement, source: str) -> dict[str, Any]:
        """What ``deploy.yml`` and ``rollback.yml`` take; ``source`` is a directory here with the artifact's files."""
        peers = peers_for(self.store, self.inventory, release, place.host)
        return {
            **release_variables(release),
            **({"peers": peers} if peers else {}),
            "artifact_source": source,
            "replica_id": str(place.replica),
            "port": place.port,
            "bind_address": self.inventory[place.host].address,
        }

    def _run(
        self,
        op_id: OperationId,
        playbook: str,
        place: Placement,
        variables: Mapping[str, Any],
        context: Context,
        timeout_s: int = 300,
    ) -> OperationResult:
        watch = Stopwatch(self.clock)

        def on_event(event: HostEvent) -> None:
            watch.saw(event)
            if event.kind not in _TOLD:
                return
            context.tell(
                "host", f"{place.host}: {event.task}{': ' + event.text if event.text else ''}", event=event.kind
            )

        operation = Operation(
            op_id=op_id,
            epoch=context.epoch,
            host=self.inventory[place.host],
            playbook=playbook,
            variables=dict(variables),
            timeout_s=timeout_s,
        )
        result = self.door.run(operation, on_event=on_event, cancelled=lambda: stopped(context))
        context.check()
        took = {"playbook": playbook, "seconds": result.seconds, "again_s": watch.again_s(result.seconds)}
        context.evidence("operation", {"operation": op_id, "host": place.host, "status": result.status, **took})
        if result.status not in ("done", "already"):
            raise HostOperationFailed(result.message, operation=playbook, host=place.host, status=result.status)
        return result

    def _note(self, replica: ReplicaId, found: Mapping[str, Any], context: Context) -> None:
        with context.writing(self.store) as tx:
            row = tx.replica(replica)
            if row is not None and found.get("release_digest"):
                seen = Digest(found["release_digest"])
                tx.put_replica(replace(row, observed_digest=seen, updated_at=self.clock.now()))

    def warm(self, state: RolloutState, context: Context) -> tuple[Placement, ...]:
        """Ready, three-part health, real completions; raises with the reason. Evidence: cold and warm first token.

        Hosts may fail as in ``start``. Returns what is warm.
        """
        release = self.release(state.release)

        def warm_on(places: tuple[Placement, ...]) -> None:
            for place in places:
                self._warm(state, place, release, context)

        shares, allowed = per_host(state.placements), self._allowed(state)
        failures = side_by_side(warm_on, shares, allowed=allowed, kind=Refused, width=ASKED)
        warm = self._without(state, failures, context)
        self._measure(replace(state, placements=warm), release, context)
        return warm

    def _measure(self, state: RolloutState, release: Release, context: Context) -> None:
        """What replicas take now that they are warm, on the first few hosts. One that does not say it stops nothing."""
        report = predicted(self.room.model(release), release, earlier_loads(self.store, release))

        def measure_on(places: tuple[Placement, ...]) -> None:
            operation = state.operation(f"measure-{places[0].host}")
            try:
                result = self._run(operation, "observe.yml", places[0], {"measure": True}, context)
            except HostOperationFailed as error:
                context.tell("host", f"{places[0].host} does not say what its replicas take: {error.message}")
                result = OperationResult(status="failed")
            for place in places:
                size = measured_bytes(result.replica(place.replica), report)
                keep(self.store, self.clock, place, release, report, size, context)

        side_by_side(measure_on, per_host(state.placements)[:FORKS])

    def _warm(self, state: RolloutState, place: Placement, release: Release, context: Context) -> None:
        driver = driver_for(release.runtime.engine)
        timeouts = self.services[state.service].rollout.timeouts
        base = f"http://{self.inventory[place.host].address}:{place.port}"
        context.tell("progress", f"waiting for {place.replica} to load and answer")
        going_on = _going_on(context)
        try:
            wait_ready(base, driver, release, deadline_s=timeouts.ready_s, clock=self.clock, still_alive=going_on)
            evidence = warm_up(base, driver, release, clock=self.clock, timeout_s=timeouts.warm_s)
        except Refused as error:
            raise ReplicaNotWarm(error.message, advice=error.advice, replica=place.replica, host=place.host) from error
        self._prove_loaded(state, place, release, context)
        context.evidence("warm-up", {"replica": place.replica, **evidence.to_json()})
        context.tell("evidence", f"{place.replica} is warm: {evidence.summary}")

    def _prove_loaded(self, state: RolloutState, place: Placement, release: Release, context: Context) -> None:
        """What the process opened, as the host observes it; anything but the release is refused."""
        if self._loaded(place.replica) != release.digest:
            operation = state.operation(f"observe-{place.replica}")
            result = self._run(operation, "observe.yml", place, {}, context)
            self._note(place.replica, result.replica(place.replica) or {}, context)
        loaded = self._loaded(place.replica)
        if loaded != release.digest:
            raise HostOperationFailed(
                f"it runs {loaded or 'nothing'}, not {release.digest}",
                operation="observe.yml",
                host=place.host,
                status="shows another release",
            )

    def _loaded(self, replica: ReplicaId) -> Digest | None:
        with self.store.reading() as tx:
            row = tx.replica(replica)
        return row.observed_digest if row else None

    def warm_replicas(self, state: RolloutState, context: Context) -> tuple[Placement, ...]:
        """The healthy replicas of the last known good; empty when it must be started first."""
        release = self.release(state.release)
        driver = driver_for(release.runtime.engine)
        with self.store.reading() as tx:
            rows = [r for r in tx.replicas(service=state.service, live_only=True) if r.slice == "lkg"]
        healthy = []
        for row in rows:
            base = f"http://{self.inventory[row.host].address}:{row.port}"
            health = check_health(base, driver, release, clock=self.clock)
            context.evidence("health", {"replica": row.id, **health.to_json()})
            if health.ok and row.state == "ready" and row.release == state.release:
                healthy.append(Placement(replica=row.id, host=row.host, port=row.port))
        return tuple(healthy)

    def retired(self, state: RolloutState) -> tuple[Placement, ...]:
        """The service's replicas that no role needs any more."""
        with self.store.reading() as tx:
            rows = tx.replicas(service=state.service, live_only=True)
        return _places(r for r in rows if r.slice == "retired")

    def drain(self, state: RolloutState, places: Iterable[Placement], name: str, context: Context) -> tuple[str, ...]:
        """Stop these replicas; running streams finish first. Returns the ids of those that would not stop."""
        left: list[str] = []

        def drain_on(mine: tuple[Placement, ...]) -> None:
            for place in mine:
                operation = state.operation(f"{name}-{place.replica}")
                try:
                    self._run(operation, "drain.yml", place, {"replica_id": str(place.replica), "grace_s": 20}, context)
                except HostOperationFailed as error:
                    context.tell("host", error.message)
                    left.append(str(place.replica))

        side_by_side(drain_on, per_host(tuple(places)))
        return tuple(sorted(left))

    def release(self, digest: Digest) -> Release:
        """The release of this name."""
        with self.store.reading() as tx:
            return tx.release(digest)


def _places(rows: Iterable[ReplicaRow]) -> tuple[Placement, ...]:
    return tuple(Placement(replica=r.id, host=r.host, port=r.port) for r in rows)


def _observed(result: OperationResult, replica: ReplicaId) -> Mapping[str, Any] | None:
    for found in result.observed.get("replicas", ()):
        if found.get("id") == replica and found.get("state") in ("starting", "running"):
            return dict(found)
    return None


def _going_on(context: Context) -> Callable[[], bool]:
    def still_alive() -> bool:
        context.check()
        return True

    return still_alive


def replica_id(service: str, tail: str, host: str, number: int) -> ReplicaId:
    """Readable where it fits; otherwise the names are shortened and told apart by a digest of them."""
    name = f"{service}-{tail}-{host}-{number}"
    if len(name) > ReplicaId.longest:
        name = f"{service[:20]}-{tail}-{Digest.of(f'{service} {host}'.encode()).short}-{number}"
    return ReplicaId(name)
