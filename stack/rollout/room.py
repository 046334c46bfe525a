"""What there is room for on a host: what replicas need, take and leave. Asks; decides nothing but the sum."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from stack.core.clock import Clock
from stack.core.digest import Digest
from stack.core.errors import Refused, Unavailable
from stack.core.names import HostName, ReplicaId
from stack.core.release import ModelVersion, Release
from stack.fleet.asking import Door, ask_facts
from stack.fleet.facts import problems
from stack.fleet.values import Host
from stack.registry.catalogue import list_models
from stack.registry.store import ContentStore
from stack.rollout.loads import earlier_loads, memory_of, predicted, room_for
from stack.runtimes.fit import FitReport, preflight_fit
from stack.store.rows import ReplicaRow
from stack.store.store import Store


class HostUnfit(Refused):
    """{detail}"""

    hint = "stackctl host check HOST shows what it has and what it lacks."


@dataclass(frozen=True, kw_only=True)
class Room:
    """``memory``: bytes that the replicas of a host may take together; of a host that is not named, all it has."""

    store: Store
    door: Door
    content: ContentStore
    inventory: Mapping[HostName, Host]
    clock: Clock
    memory: Mapping[HostName, int] = field(default_factory=dict)

    def fit_on(
        self,
        name: HostName,
        model: ModelVersion,
        release: Release,
        replicas: int,
        *,
        without: Collection[ReplicaId] = (),
    ) -> FitReport:
        """Whether they fit there beside what runs; ``without``: replicas that don't, whatever is stored of them.

        Raises when the host can't be asked, or is not fit for anything.
        """
        host, room, devices = self.inventory[name], None, None
        if host.connection != "local" or memory_of(release) == "accelerator":
            facts = ask_facts(self.door, host, self.clock)
            if wrong := problems(facts, host.group):
                raise HostUnfit("; ".join(wrong))
            room, devices = room_for(facts, host, release), facts.accelerators
        loads = earlier_loads(self.store, release)
        report = preflight_fit(model, release, replicas=replicas, available=room, devices=devices, loads=loads)
        left = self._left(name, without)
        if left is None or report.memory != "main" or (report.available_bytes or 0) <= left:
            return report
        return preflight_fit(model, release, replicas=replicas, available=left, loads=loads)

    def _left(self, name: HostName, without: Collection[ReplicaId]) -> int | None:
        """Of the memory that replicas may take on this host, what those that run there leave; None: no limit."""
        if name not in self.memory:
            return None
        with self.store.reading() as tx:
            rows = [r for r in tx.replicas(live_only=True) if r.host == name and r.id not in without]
        return max(0, self.memory[name] - sum(self.takes(row) for row in rows))

    def takes(self, row: ReplicaRow) -> int:
        """Bytes that a replica was measured to take, else what is reckoned with; the reckoning is never too low."""
        with self.store.reading() as tx:
            measured = tx.load(row.id)
        if measured is not None:
            return measured.measured_bytes
        release = self._release(row.release)
        report = predicted(self.model(release), release, earlier_loads(self.store, release))
        return report.needed_bytes or self.memory.get(row.host, 0)

    def model(self, release: Release) -> ModelVersion:
        """The registered model version of a release: by artifact, so never another one of the same name."""
        for model in list_models(self.content):
            if model.artifact.digest == release.artifact:
                return model
        raise Unavailable(f"{release.model} is not registered", advice="stackctl model register MANIFEST")

    def _release(self, digest: Digest) -> Release:
        with self.store.reading() as tx:
            return tx.release(digest)
