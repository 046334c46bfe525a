"""Starts a sick replica again: on record, by policy, under the lease, and only while it should serve. I/O.

Whether it is sick is decided elsewhere (``wellness``), and so is what gets traffic (the gateway). Both host operations
are fenced by the lease's epoch. A replica that its rollout retires meanwhile is not brought back: its role is looked at
before it is started, and once more after that, when it is stopped again; a rollout writes the role down before it stops
anything, so one of the two sees the other. What was begun before is read from the audit log: the next orchestrator
knows it too. How long ago that was is counted by the clock that nobody sets, from when this process first saw it.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from stack.audit.append import append
from stack.audit.record import AuditRecord
from stack.config.policies import NoPolicies, PoliciesInvalid
from stack.core.clock import Clock, unstamp
from stack.core.errors import StackError, Unavailable
from stack.core.names import OperationId
from stack.fleet.values import Operation
from stack.rollout.authority import Authority
from stack.rollout.hosts import Hosts
from stack.rollout.state import Placement, RolloutState
from stack.rollout.tenure import Interrupted, Leadership
from stack.rollout.wellness import Held, Limits, Wellness, held_back
from stack.rollout.worker import stopped
from stack.runtimes.driver import driver_for
from stack.runtimes.warm import wait_ready
from stack.store.errors import LeaseLost
from stack.store.rows import AuditRow, ReplicaRow
from stack.store.store import Reading, Store, Transaction

log = logging.getLogger(__name__)

RESTART = "replica.restart"
GIVEN_UP = "replica.given-up"
ALERT = "REPLICA-01"
BEGUN = "begun"
_GRACE_S = 3
_ASK_S, _STOP_S = 60, 120


class NotStopped(Unavailable):
    """Replica {replica} could not be stopped on host {host} ({status}): {detail}"""

    hint = "Look at the host; it is tried again. docs/runbooks/replica-unhealthy.md"


@dataclass(frozen=True, kw_only=True)
class Underway:
    """The Context of one restart: told to the log, over with the leadership or the monitor."""

    lead: Leadership
    stop: threading.Event

    @property
    def epoch(self) -> int:
        """The lease's, for the fence on the hosts."""
        return self.lead.lease.epoch

    def tell(self, kind: str, text: str, **data: Any) -> None:
        """To the log."""
        log.info("%s: %s", kind, text)

    def evidence(self, kind: str, body: Mapping[str, Any]) -> None:
        """What counts is in the audit record."""
        log.debug("%s: %s", kind, body)

    def check(self) -> None:
        """Raise Interrupted when it must not go on."""
        if self.stop.is_set() or self.lead.gone.is_set():
            raise Interrupted()

    def writing(self, store: Store) -> AbstractContextManager[Transaction]:
        """A transaction under the lead."""
        return self.lead.writing(store)

    def goes_on(self) -> bool:
        """True, unless ``check`` raises."""
        self.check()
        return True


class Ages:
    """How long ago records were made. The time of day is believed once, when a record is first seen, and never that a
    record is of the future; a clock that is set later makes nothing older or younger."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._made: dict[int, float] = {}

    def of(self, seq: int, time: datetime) -> float:
        """Seconds since record ``seq``, which says ``time`` of itself."""
        now = self._clock.monotonic()
        if seq not in self._made:
            self._made[seq] = now - max(0.0, (self._clock.now() - time).total_seconds())
        return now - self._made[seq]


@dataclass(frozen=True, kw_only=True)
class Restarter:
    """Restarts of single replicas."""

    store: Store
    hosts: Hosts
    authority: Authority
    clock: Clock
    limits: Limits
    _ages: Ages = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ages", Ages(self.clock))

    def held(self, tx: Reading, row: ReplicaRow) -> Held | None:
        """Why it is not started again now."""
        records = tx.audit_of(str(row.id))
        since = max((r.seq for r in records if r.action == GIVEN_UP), default=0)  # people have seen what was before it
        begun = [r for r in records if r.action == RESTART and r.result == BEGUN and r.seq > since]
        ages = [self._ages.of(r.seq, unstamp(r.time)) for r in begun]
        alerted = any(a.code == ALERT and a.subject == row.id for a in tx.alerts(open_only=True, limit=1000))
        long = max(self.limits.attempts_within_s, (self.limits.attempts + 1) * self.ready_s(row))
        return held_back(ages, alerted, replace(self.limits, attempts_within_s=long))

    def give_up(self, row: ReplicaRow, found: Wellness, held: Held, lead: Leadership) -> None:
        """Hand it to people, once."""
        with self.store.transaction() as tx:
            tx.check_lease(lead.lease)
            body = self._body(row, found, held.reason)
            title = f"replica {row.id} is sick: {held.reason}"
            tx.raise_alert(ALERT, "critical", title, str(row.id), body, self.clock.now())
            self._record(tx, row, GIVEN_UP, "alert", body)

    def age_s(self, row: ReplicaRow, context: Underway) -> float | None:
        """How old its process is by its host; None when none runs, or the host can't say."""
        result = self.hosts.door.run(self._operation("look", "observe.yml", row, {}, context, _ASK_S))
        context.check()
        found = result.replica(str(row.id)) if result.succeeded else None
        if found is None or found.get("state") not in ("running", "starting") or not found.get("pid"):
            return None
        started = found.get("started_at")
        if started is None:
            return 0.0  # it still verifies its bytes
        try:
            return (self.clock.now() - unstamp(str(started))).total_seconds()
        except ValueError:
            return None

    def restart(self, row: ReplicaRow, found: Wellness, context: Underway) -> None:
        """End it, however much it hangs, and start it again; the outcome goes on record."""
        try:
            if self._begin(row, found, context):
                result = self._tried(row, context)
                log.warning("restart of %s: %s", row.id, result)
                with self.store.transaction() as tx:
                    tx.check_lease(context.lead.lease)
                    self._record(tx, row, RESTART, result, self._body(row, found, found.reason))
        except LeaseLost:
            context.lead.gone.set()

    def _tried(self, row: ReplicaRow, context: Underway) -> str:
        try:
            return self._again(row, context)
        except Interrupted:
            return "interrupted: this orchestrator stops; the next one starts what should run"
        except StackError as error:
            return error.message

    def _begin(self, row: ReplicaRow, found: Wellness, context: Underway) -> bool:
        """On record before anything is done; a refusal counts as an attempt, so it is not repeated at once."""
        with self.store.transaction() as tx:
            tx.check_lease(context.lead.lease)
            if not serves(tx, row):
                return False
            refusal = self._refusal(tx, row)
            body = self._body(row, found, found.reason)
            begun = self._record(tx, row, RESTART, BEGUN, body)
            self._ages.of(begun.seq, unstamp(begun.time))
            if refusal is not None:
                self._record(tx, row, RESTART, refusal, body)
        log.warning("%s is sick (%s): %s", row.id, found.reason, refusal or "starting it again")
        return refusal is None

    def _refusal(self, tx: Reading, row: ReplicaRow) -> str | None:
        """Policies that can't be read allow nothing."""
        try:
            return self.authority.may_restore(tx, row.service, row.id)
        except (NoPolicies, PoliciesInvalid) as error:
            return error.message

    def _again(self, row: ReplicaRow, context: Underway) -> str:
        self._stop(row, context)
        if not self._serves(row):
            return "stopped; not started again: its service does not need it any more"
        place = Placement(replica=row.id, host=row.host, port=row.port)
        operation = self._operation_id("start", row, context)
        self.hosts.ensure(operation, "rollback.yml", row.release, place, context)
        if not self._serves(row):
            self._stop(row, context)
            return "stopped again: its service does not need it any more"
        release = self.hosts.release(row.release)
        wait_ready(
            f"http://{self.hosts.inventory[row.host].address}:{row.port}",
            driver_for(release.runtime.engine),
            release,
            deadline_s=self.ready_s(row),
            clock=self.clock,
            still_alive=context.goes_on,
        )
        return "ok"

    def _stop(self, row: ReplicaRow, context: Underway) -> None:
        wanted = {"replica_id": str(row.id), "grace_s": _GRACE_S}
        operation = self._operation("stop", "drain.yml", row, wanted, context, _STOP_S)
        result = self.hosts.door.run(operation, cancelled=lambda: stopped(context))
        context.check()
        if not result.succeeded:
            raise NotStopped(result.message, replica=row.id, host=row.host, status=result.status)

    def ready_s(self, row: ReplicaRow) -> float:
        """How long it may load."""
        settings = self.hosts.services.get(row.service)
        return settings.rollout.timeouts.ready_s if settings else 120.0

    def _serves(self, row: ReplicaRow) -> bool:
        with self.store.reading() as tx:
            return serves(tx, row)

    def _operation_id(self, what: str, row: ReplicaRow, context: Underway) -> OperationId:
        return OperationId(f"{what}.{row.id}.{context.epoch}-{secrets.token_hex(4)}")

    def _operation(
        self, what: str, playbook: str, row: ReplicaRow, variables: dict[str, Any], context: Underway, timeout_s: int
    ) -> Operation:
        return Operation(
            op_id=self._operation_id(what, row, context),
            epoch=context.epoch,
            host=self.hosts.inventory[row.host],
            playbook=playbook,
            variables=variables,
            timeout_s=timeout_s,
        )

    def _body(self, row: ReplicaRow, found: Wellness, reason: str) -> dict[str, Any]:
        since = None if found.failing_since is None else round(found.looked_at - found.failing_since, 1)
        return {
            "service": str(row.service),
            "host": str(row.host),
            "release": str(row.release),
            "slice": row.slice,
            "reason": reason,
            "outcome": None if found.outcome is None else str(found.outcome),
            "failed_probes": found.failed,
            "failing_for_s": since,
            "no_sign_of_life_for_s": round(found.looked_at - found.moved_at, 1),
        }

    def _record(self, tx: Transaction, row: ReplicaRow, action: str, result: str, body: dict[str, Any]) -> AuditRow:
        record = AuditRecord(
            actor="orchestrator", action=action, target=str(row.id), change=str(row.id), result=result, body=body
        )
        return append(tx, record, self.clock)


def serving(tx: Reading) -> tuple[ReplicaRow, ...]:
    """The replicas that should serve: stable and last known good, but for those in the hands of an open rollout."""
    held = {
        place.replica
        for rollout in tx.rollouts(limit=1000, open_only=True)
        for place in RolloutState.from_json(dict(rollout.state)).placements
    }
    rows = tx.replicas(live_only=True)
    return tuple(r for r in rows if r.slice in ("stable", "lkg") and r.state == "ready" and r.id not in held)


def serves(tx: Reading, row: ReplicaRow) -> bool:
    """Whether this one still should."""
    return any(r.id == row.id and r.release == row.release for r in serving(tx))
