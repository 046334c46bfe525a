"""Looks at what is really there (gateway, replicas) for ``status``, ``diff`` and dry runs. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack.core.clock import Clock
from stack.core.digest import Digest
from stack.core.names import HostName, OperationId, ReplicaId
from stack.core.release import Release
from stack.fleet.values import Host, Operation
from stack.gateway.control import GatewayControl
from stack.gateway.errors import GatewayUnavailable
from stack.rollout.hosts import Hosts
from stack.rollout.loads import taken
from stack.rollout.plan import Plan
from stack.rollout.state import Placement
from stack.rollout.status import service_json
from stack.rollout.swapping import Swapping
from stack.rollout.tenure import LEASE
from stack.runtimes.driver import driver_for
from stack.runtimes.health import check_health
from stack.store.rows import ReplicaRow
from stack.store.store import Store

_PROBE_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Observer:
    """Observation of one stack."""

    store: Store
    control: GatewayControl
    hosts: Hosts
    swapping: Swapping
    inventory: Mapping[HostName, Host]
    gateway_url: str
    clock: Clock

    def gateway(self) -> dict[str, Any]:
        """``{url, healthy, table_version, pid}`` as the gateway says; not healthy when it says nothing."""
        try:
            said = self.control.health()
        except GatewayUnavailable:
            return {"url": self.gateway_url, "healthy": False, "table_version": None, "pid": None}
        return {
            "url": self.gateway_url,
            "healthy": bool(said.get("ready")),
            "table_version": said.get("table_version"),
            "pid": said.get("pid"),
        }

    def services(self) -> list[dict[str, Any]]:
        """Every service with its roles, the weights in force, and its replicas as just probed."""
        with self.store.reading() as tx:
            rows = tx.services()
            replicas = tx.replicas(live_only=True)
            wanted = {d for s in rows for d in (s.stable, s.candidate, s.lkg) if d} | {r.release for r in replicas}
            releases = {d: tx.release(d) for d in wanted}
            memory = taken(tx, [r.id for r in replicas])
        routed = self._table()
        states = self._probe([r for r in replicas if r.state == "ready"], releases)
        return [service_json(row, releases, replicas, routed, states, memory) for row in rows]

    def roles_of(self, model: str, artifact: Digest) -> list[str]:
        """The roles (``service:stable`` ...) a model version has now."""
        with self.store.reading() as tx:
            found = []
            for row in tx.services():
                for role, digest in (("stable", row.stable), ("candidate", row.candidate), ("lkg", row.lkg)):
                    release = tx.release(digest) if digest else None
                    if release and release.model == model and release.artifact == artifact:
                        found.append(f"{row.name}:{role}")
        return found

    def dry_run(self, plan: Plan, source: Path) -> list[dict[str, Any]]:
        """What Ansible's check mode says each host would see changed. Nothing is."""
        with self.store.reading() as tx:
            lease = tx.lease(LEASE)
        results = []
        ways = self.swapping.ways(plan, ask=True)
        for name in plan.hosts:
            place = Placement(replica=ReplicaId(f"{plan.service}-dry-run"), host=HostName(name), port=1024)
            operation = Operation(
                op_id=OperationId(f"dry-run.{plan.digest.short}"),
                epoch=lease.epoch if lease else 0,
                host=self.inventory[name],
                playbook="deploy.yml",
                variables=self.hosts.variables(plan.release, place, str(source)),
            )
            result = self.hosts.door.run(operation, check=True)
            row = {"host": name, "status": result.status, "message": result.message, "would": list(result.would)}
            row["way"] = ways.get(name, "")
            results.append(row)
        return results

    def _table(self) -> Mapping[str, Any] | None:
        try:
            table = self.control.table()
        except GatewayUnavailable:
            return None
        return table.to_json() if table else {"services": []}

    def _probe(self, rows: Sequence[ReplicaRow], releases: Mapping[Digest, Release]) -> dict[str, str]:
        def ask(row: ReplicaRow) -> tuple[str, str]:
            release = releases[row.release]
            base = f"http://{self.inventory[row.host].address}:{row.port}"
            health = check_health(
                base, driver_for(release.runtime.engine), release, clock=self.clock, timeout_s=_PROBE_S
            )
            return str(row.id), "healthy" if health.ok else "unhealthy"

        if not rows:
            return {}
        with ThreadPoolExecutor(max_workers=min(16, len(rows))) as pool:
            return dict(pool.map(ask, rows))
