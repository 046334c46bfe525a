"""Brings reality up to what is stored when an orchestrator takes over: replicas that should run, the table in force.

Runs before any rollout goes on. Open rollouts look after their own candidates; this looks after what serves.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stack.audit.append import append
from stack.audit.record import AuditRecord
from stack.core.clock import Clock
from stack.core.errors import StackError
from stack.core.names import HostName, OperationId
from stack.fleet.values import Host
from stack.rollout.hosts import Hosts
from stack.rollout.routing_push import RoutePusher
from stack.rollout.state import Placement
from stack.rollout.worker import Interrupted, Leadership
from stack.runtimes.driver import driver_for
from stack.runtimes.health import check_health
from stack.runtimes.warm import wait_ready
from stack.store.rows import ReplicaRow
from stack.store.store import Store

log = logging.getLogger(__name__)


class _StartContext:
    """The Context of work that belongs to no rollout: told to the log, stopped with the leadership."""

    def __init__(self, lead: Leadership) -> None:
        self._lead = lead

    @property
    def epoch(self) -> int:
        return self._lead.lease.epoch

    def tell(self, kind: str, text: str, **data: Any) -> None:
        log.info("%s: %s", kind, text)

    def evidence(self, kind: str, body: Mapping[str, Any]) -> None:
        log.debug("%s: %s", kind, body)

    def check(self) -> None:
        if self._lead.gone.is_set():
            raise Interrupted()


@dataclass(frozen=True, kw_only=True)
class Reconciler:
    """Convergence at take-over."""

    store: Store
    hosts: Hosts
    routes: RoutePusher
    inventory: Mapping[HostName, Host]
    clock: Clock

    def on_lead(self, lead: Leadership) -> None:
        """Start again what should run and does not, then make the gateway route as stored.

        A replica that can't be brought back is left for the operator to see in ``status``; the others go on.
        """
        context = _StartContext(lead)
        for row in self._wanted():
            if not self._healthy(row):
                self._revive(row, context)
        try:
            self.routes.push()
        except StackError as error:
            log.warning("the gateway could not be told its table yet: %s", error.message)

    def tick(self) -> None:
        """Make the gateway route as stored again, should it have started late or lost its table."""
        try:
            if self.routes.converge():
                log.info("the gateway did not route as stored; it was told again")
        except StackError as error:
            log.debug("the gateway can't be asked: %s", error.message)

    def _wanted(self) -> tuple[ReplicaRow, ...]:
        with self.store.reading() as tx:
            rows = tx.replicas(live_only=True)
        return tuple(r for r in rows if r.slice in ("stable", "lkg") and r.state == "ready")

    def _healthy(self, row: ReplicaRow) -> bool:
        release = self.hosts.release(row.release)
        base = f"http://{self.inventory[row.host].address}:{row.port}"
        return check_health(base, driver_for(release.runtime.engine), release, clock=self.clock).ok

    def _revive(self, row: ReplicaRow, context: _StartContext) -> None:
        place = Placement(replica=row.id, host=row.host, port=row.port)
        operation = OperationId(f"revive.{row.id}.{context.epoch}")
        release = self.hosts.release(row.release)
        result = "ok"
        try:
            self.hosts.ensure(operation, "rollback.yml", row.release, place, context)
            wait_ready(
                f"http://{self.inventory[row.host].address}:{row.port}",
                driver_for(release.runtime.engine),
                release,
                deadline_s=60,
                clock=self.clock,
                still_alive=lambda: True,
            )
        except StackError as error:
            log.warning("could not revive %s: %s", row.id, error.message)
            result = error.message
        with self.store.transaction() as tx:
            body = {"host": str(row.host), "release": str(row.release), "slice": row.slice}
            record = AuditRecord(
                actor="orchestrator", action="replica.revive", target=str(row.id), change="", result=result, body=body
            )
            append(tx, record, self.clock)
