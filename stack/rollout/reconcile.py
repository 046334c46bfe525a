"""Brings reality up to what is stored when an orchestrator takes over: replicas that should run, the table in force.

Runs before any rollout goes on. Open rollouts look after their own candidates; this looks after what serves.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from stack.audit.append import append
from stack.audit.record import AuditRecord
from stack.core.clock import Clock
from stack.core.errors import Refused, StackError
from stack.core.names import HostName, OperationId
from stack.fleet.values import Host
from stack.rollout.abreast import ASKED
from stack.rollout.authority import Authority
from stack.rollout.hosts import Hosts
from stack.rollout.routing_push import RoutePusher
from stack.rollout.state import Placement
from stack.rollout.tenure import Interrupted, Leadership
from stack.runtimes.driver import driver_for
from stack.runtimes.health import check_health
from stack.runtimes.warm import wait_ready
from stack.store.rows import ReplicaRow
from stack.store.store import Store, Transaction

log = logging.getLogger(__name__)
_PATIENCE = 6


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

    def writing(self, store: Store) -> AbstractContextManager[Transaction]:
        return self._lead.writing(store)


@dataclass(frozen=True, kw_only=True)
class Reconciler:
    """Convergence at take-over."""

    store: Store
    hosts: Hosts
    routes: RoutePusher
    authority: Authority
    inventory: Mapping[HostName, Host]
    clock: Clock

    def on_lead(self, lead: Leadership) -> None:
        """Start again what should run and does not, then make the gateway route as stored.

        A replica that can't be brought back is left for the operator to see in ``status``; the others go on.
        """
        context = _StartContext(lead)
        rows = self._wanted()
        with ThreadPoolExecutor(max_workers=ASKED, thread_name_prefix="health") as pool:
            well = list(pool.map(self._healthy, rows))
        for row in (row for row, healthy in zip(rows, well, strict=True) if not healthy):
            self._revive(row, context)
        try:
            self.routes.push(context.writing)
        except StackError as error:
            log.warning("the gateway could not be told its table yet: %s", error.message)

    def restore(self, service: str, leading: Callable[[], Leadership | None]) -> tuple[str, ...]:
        """Have the service's stable replicas healthy and routed to; what is missing of that, in words or by id.

        A stable release without a single replica is missing too: no replica is no proof that it serves. Only who leads
        brings back what is missing; ``leading`` is asked once something is.
        """
        rows = [row for row in self._wanted() if row.service == service and row.slice == "stable"]
        sick = [] if rows else ["it has none"]
        for row in rows:
            if self._recovers(row):
                continue
            if not self._brought_back(row, leading()):
                sick.append(str(row.id))
        if (lead := leading()) is not None:
            self.routes.converge(lead.writing)
        return tuple(sick)

    def _brought_back(self, row: ReplicaRow, lead: Leadership | None) -> bool:
        if lead is None:
            return False
        try:
            self._revive(row, _StartContext(lead))
        except Interrupted:
            return False
        return self._healthy(row)

    def tick(self, lead: Leadership) -> None:
        """Make the gateway route as stored again, should it have started late or lost its table."""
        try:
            if self.routes.converge(lead.writing):
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

    def _recovers(self, row: ReplicaRow) -> bool:
        """Healthy now, or in the moment that its supervisor needs to start it again."""
        for _ in range(_PATIENCE):
            if self._healthy(row):
                return True
            self.clock.sleep(0.5)
        return False

    def _revive(self, row: ReplicaRow, context: _StartContext) -> None:
        place = Placement(replica=row.id, host=row.host, port=row.port)
        operation = OperationId(f"revive.{row.id}.{context.epoch}-{secrets.token_hex(4)}")
        release = self.hosts.release(row.release)
        result = "ok"
        try:
            self._ask(row)
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
        self._note(row, result, context)

    def _ask(self, row: ReplicaRow) -> None:
        with self.store.reading() as tx:
            refusal = self.authority.may_restore(tx, row.service, row.id)
        if refusal is not None:
            raise Refused(refusal)

    def _note(self, row: ReplicaRow, result: str, context: _StartContext) -> None:
        with context.writing(self.store) as tx:
            body = {"host": str(row.host), "release": str(row.release), "slice": row.slice}
            record = AuditRecord(
                actor="orchestrator", action="replica.revive", target=str(row.id), change="", result=result, body=body
            )
            append(tx, record, self.clock)
