"""The control plane as the facade that the API offers: ``start`` begins driving rollouts, ``stop`` ends that.

Every method is thread-safe. Nothing is decided here; it asks the planner, writes what begins, and shows what is.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from stack.app.access import AccessDesk
from stack.app.beginning import begin
from stack.app.changes import ChangeDesk
from stack.app.machines import MachineDesk
from stack.app.models import ModelDesk
from stack.app.permission import Permission
from stack.app.policy_watch import PolicyWatch
from stack.app.records import RecordsDesk
from stack.audit.append import append
from stack.audit.checkpointer import Checkpointer
from stack.audit.record import AuditRecord
from stack.config.home import Home, Ports
from stack.config.stack_yaml import StackSettings
from stack.core.actions import Action
from stack.core.caller import Caller
from stack.core.clock import Clock, stamp
from stack.core.errors import Conflict, Unavailable
from stack.core.names import RolloutId
from stack.registry.store import ContentStore
from stack.rollout.gatekeeper import Ask, Refusals, requester_of
from stack.rollout.monitor import Monitor
from stack.rollout.observing import Observer
from stack.rollout.plan import Plan
from stack.rollout.planner import Planner
from stack.rollout.reconcile import Reconciler
from stack.rollout.report import Reporter
from stack.rollout.state import Phase, RolloutState
from stack.rollout.status import differences, rollout_json
from stack.rollout.tenure import TTL_S, Leadership
from stack.rollout.worker import REQUEST, Worker
from stack.store.errors import RolloutOpen
from stack.store.rows import RolloutRow
from stack.store.store import Store

log = logging.getLogger(__name__)
Json = dict[str, Any]

_WAITING = {
    "placing": "Ansible: runtime, artifact and replica on the hosts",
    "measuring": "the eval suite on stable, while it still serves",
    "draining": "running answers to end, and the old replicas; new requests wait in the gateway",
    "starting": "Ansible: the new replicas; new requests wait in the gateway",
    "restoring": "the old replicas to start again; new requests wait in the gateway",
    "warming": "the engine to load and answer",
    "holding": "evidence from live traffic and replay",
    "awaiting": "an approval: stackctl change list",
    "paused": "a person: resume or abort",
}


class NotServing(Unavailable):
    """{service} has {model} as stable, but these replicas are not healthy and could not be brought back: {replicas}."""

    hint = (
        "The engine's last lines are in hosts/<host>/replicas/<replica>/engine.log; docs/runbooks/replica-unhealthy.md."
    )


class NotPaused(Conflict):
    """Rollout {rollout} is {state}, so there is nothing to {what}."""


@dataclass(frozen=True, kw_only=True)
class StackOperator:
    """The control plane. See ``stack/api/operator.py`` for the shapes of what goes in and out."""

    home: Home
    ports: Ports
    settings: StackSettings
    store: Store
    content: ContentStore
    planner: Planner
    observer: Observer
    reporter: Reporter
    worker: Worker
    reconciler: Reconciler
    monitor: Monitor
    access: AccessDesk
    changes: ChangeDesk
    records: RecordsDesk
    library: ModelDesk
    machines: MachineDesk
    permission: Permission
    refusals: Refusals
    checkpointer: Checkpointer
    policy_watch: PolicyWatch
    clock: Clock

    def start(self) -> None:
        """Begin to drive rollouts, in a thread of its own."""

        def tick() -> None:
            lead = self.worker.lead()
            if lead is not None:
                self.policy_watch.tick(lead.writing)
                self.reconciler.tick(lead)

        def on_lead(lead: Leadership) -> None:
            self.reconciler.on_lead(lead)
            self.monitor.led(lead)

        hooks = (on_lead, tick)
        threading.Thread(target=self.worker.run, args=hooks, name="worker", daemon=True).start()
        self.checkpointer.start()

    def _leading(self) -> Leadership | None:
        """This process's lead; one that has just started may still be about to get it."""
        return self.worker.lead(within_s=TTL_S / 2)

    def stop(self) -> None:
        """Stop driving and give the lease back; open rollouts go on with the next start."""
        self.worker.stop()
        self.monitor.stop()
        self.checkpointer.stop()

    def status(self) -> Json:
        """What is true now."""
        gateway = self.gateway_health()
        with self.store.reading() as tx:
            rollouts = tx.rollouts(limit=10)
            queue = self.changes.queue(tx)
            alerts = tx.alerts(open_only=True, limit=1000)
        return {
            "services": self.observer.services(),
            "rollouts": [rollout_json(r, self._evidence(r)) for r in rollouts],
            "gateway": gateway,
            "control_plane": {"url": f"http://127.0.0.1:{self.ports.admin}", "pid": os.getpid()},
            "environment": self.settings.environment,
            "audit": self.records.health(),
            "approvals": queue,
            "alerts": {"open": len(alerts), "codes": sorted({alert.code for alert in alerts})},
        }

    def diff(self) -> Json:
        """Desired against observed."""
        desired = {}
        for service in self.settings.services.values():
            release = self.planner.desired(service)
            count = service.replicas * len(service.hosts)
            desired[str(service.name)] = {"model": release.model, "runtime": release.runtime.ref, "replicas": count}
        found = differences(desired, self.observer.services(), self.gateway_health())
        return {"in_sync": not found, "differences": found}

    def plan(self, request: Json) -> Json:
        """What a deploy would do; nothing is changed."""
        plan = self._plan(request)
        ask = self._ask(plan, Action.DEPLOY, request, "")
        with self.store.reading() as tx:
            standing = self.permission.gatekeeper.look(tx, ask)
        missing = list(standing.decision.missing)
        approvals: Json = {"missing": missing, "who": list(standing.may)}
        if standing.kept:
            approvals["request"] = str(standing.request.id)
        ways = {} if plan.nothing_to_do else self.observer.swapping.ways(plan, ask=False)
        return {**_plan_json(plan), "ways": ways, "risk": standing.request.risk.value, "approvals": approvals}

    def deploy(self, request: Json, caller: Caller) -> Json:
        """Register, plan, and begin the rollout, unless the service already serves exactly this."""
        service = self.planner.service(request.get("service"))
        with self.refusals.recorded(caller, Action.DEPLOY, service.name, str(request.get("change") or "")):
            plan = self._plan(request)
        if plan.nothing_to_do:
            sick = () if request.get("dry_run") else self.reconciler.restore(service.name, self._leading)
            if sick:
                raise NotServing(service=service.name, model=plan.release.model, replicas=", ".join(sick))
            reason = f"{service.name} already serves {plan.release.model} on {plan.release.runtime.ref}"
            return {"nothing_to_do": True, "reason": reason, "plan": _plan_json(plan), "status": self.status()}
        service = replace(service, format=plan.release.artifact_format)
        source = self.planner.source(service, request.get("model"))
        if request.get("dry_run"):
            return {
                "dry_run": self.observer.dry_run(plan, self.library.files(source, service.format)),
                "plan": _plan_json(plan),
            }
        self._none_open(service.name)
        approval = self._approved(plan, Action.DEPLOY, request, caller)
        if source.manifest is not None:
            self.library.admit(source.manifest, service.format, None, caller, str(request.get("change") or ""))
        return self._begin(plan, request, caller, approval)

    def rollback(self, request: Json, caller: Caller) -> Json:
        """Back to the last known good. An open rollout is aborted instead: that is the way back then."""
        service = self.planner.service(request.get("service"))
        with self.store.reading() as tx:
            running = tx.rollouts(limit=1, service=service.name, open_only=True)
            before = tx.rollouts(limit=1, service=service.name)
        if before and not request.get("change"):
            request = {**request, "change": before[0].state.get("change") or ""}  # it belongs to what it undoes
        if running:
            self._request(running[0].id, "abort", caller, "rollback by hand")
            return {"rollout": str(running[0].id), "aborting": True}
        with self.refusals.recorded(caller, Action.ROLLBACK, service.name, str(request.get("change") or "")):
            environment = self.permission.environment(service.name, request.get("environment"))
            plan = self.planner.rollback(service, environment, request.get("accept_pause_s"))
        if plan.nothing_to_do:
            reason = f"{service.name} already serves its last known good, {plan.release.model}"
            return {"nothing_to_do": True, "reason": reason, "plan": _plan_json(plan), "status": self.status()}
        return self._begin(plan, request, caller, self._approved(plan, Action.ROLLBACK, request, caller))

    def rollouts(self, limit: int) -> Json:
        """Newest first."""
        with self.store.reading() as tx:
            return {"rollouts": [rollout_json(r, self._evidence(r)) for r in tx.rollouts(limit=limit)]}

    def rollout(self, rollout_id: str) -> Json:
        """One rollout with plan and evidence."""
        row = self._row(rollout_id)
        state = RolloutState.from_json(dict(row.state))
        with self.store.reading() as tx:
            plan = tx.plan(state.plan)
            evidence = tx.evidence(row.id)
        shown = [
            {"phase": e.phase, "kind": e.kind, "at": stamp(e.created_at), "body": e.body}
            for e in evidence
            if e.kind in ("verdict", "comparison", "fit", "warm-up", "operation", "way", "pause")
        ]
        return {**rollout_json(row, self._evidence(row)), "plan_body": plan, "evidence_items": shown}

    def events(self, rollout_id: str, after: int, wait_s: float) -> Json:
        """Events after ``after``, waiting up to ``wait_s`` seconds for the first."""
        deadline = self.clock.monotonic() + wait_s
        while True:
            row = self._row(rollout_id)
            with self.store.reading() as tx:
                events = tx.events(row.id, after=after, limit=500)
            if events or row.closed or self.clock.monotonic() >= deadline:
                break
            self.clock.sleep(0.1)
        return {
            "events": [{"seq": e.seq, "at": stamp(e.created_at), "state": e.kind, "text": e.text} for e in events],
            "next": events[-1].seq if events else after,
            "state": row.phase,
            "waiting_for": _WAITING.get(row.phase, row.phase),
        }

    def resume(self, rollout_id: str, caller: Caller) -> Json:
        """Let a paused rollout ask its rung again."""
        row = self._row(rollout_id)
        if row.phase != Phase.PAUSED:
            raise NotPaused(rollout=rollout_id, state=row.phase, what="resume")
        self._request(row.id, "resume", caller, "")
        return self.rollout(rollout_id)

    def abort(self, rollout_id: str, reason: str, caller: Caller) -> Json:
        """Stop a rollout and put traffic back."""
        row = self._row(rollout_id)
        if row.closed:
            raise NotPaused(rollout=rollout_id, state=row.phase, what="abort")
        self._request(row.id, "abort", caller, reason)
        return self.rollout(rollout_id)

    def models(self) -> Json:
        """Every registered model version, with the services' roles as aliases."""
        return self.library.models()

    def model(self, ref: str) -> Json:
        """One registered model version."""
        return self.library.model(ref)

    def register(self, path: str, format: str, on_progress: Callable[[Json], None], caller: Caller) -> Json:
        """Admit a manifest's artifact."""
        return self.library.register(path, format, on_progress, caller)

    def verify(self, ref: str) -> Json:
        """Read every byte again."""
        return self.library.verify(ref)

    def scrub(self, repair_from: str | None, caller: Caller) -> Json:
        """Verify the whole store; repair from a second copy where one is given."""
        return self.library.scrub(repair_from, caller)

    def audit(self, limit: int, after: int) -> Json:
        """Audit records in order."""
        with self.store.reading() as tx:
            last = tx.last_audit()
            start = (last.seq if last else 0) - limit + 1 if after < 0 else after + 1
            rows = tx.audit_rows(max(1, start), limit)
        return {"records": [r.to_json() for r in rows], "next": rows[-1].seq if rows else max(after, 0)}

    def gateway_health(self) -> Json:
        """As the gateway itself says."""
        return self.observer.gateway()

    def _plan(self, request: Json) -> Plan:
        service = self.planner.service(request.get("service"))
        environment = self.permission.environment(service.name, request.get("environment"))
        accepted = request.get("accept_pause_s")
        return self.planner.deploy(service, request.get("model"), request.get("runtime"), environment, accepted)

    def _none_open(self, service: str) -> None:
        """Before anything is asked: a second rollout could not begin anyway, and its request would be in the way."""
        with self.store.reading() as tx:
            running = tx.rollouts(limit=1, service=service, open_only=True)
        if running:
            advice = "It waits for an approval: `stackctl change list`." if running[0].phase == Phase.AWAITING else ""
            raise RolloutOpen(service=service, rollout=running[0].id, advice=advice)

    def _ask(self, plan: Plan, action: Action, request: Json, requester: str) -> Ask:
        return Ask(
            action=action,
            target=plan.service,
            environment=plan.environment,
            plan=plan.digest,
            requester=requester,
            change=str(request.get("change") or ""),
        )

    def _approved(self, plan: Plan, action: Action, request: Json, caller: Caller) -> str:
        """The request by which the policies allow this now (empty: they want none); what is missing otherwise."""
        return self.permission.passed(self._ask(plan, action, request, requester_of(caller)), plan.to_json(), caller)

    def _begin(self, plan: Plan, request: Json, caller: Caller, approval: str) -> Json:
        service = self.settings.services[plan.service].name
        change = str(request.get("change") or "")
        rollout = begin(self.store, self.clock, plan, service, caller=caller, change=change, approval=approval)
        return {"rollout": str(rollout), "plan": _plan_json(plan)}

    def _request(self, rollout: RolloutId, what: str, caller: Caller, reason: str) -> None:
        action = Action.ABORT if what == "abort" else Action.RESUME
        permit = self.permission.permitted(action, str(rollout), {"reason": reason}, "", caller)
        by = caller.shown
        with self.store.transaction() as tx:
            permit.use(tx, str(rollout))
            tx.add_event(rollout, REQUEST, f"{what} asked by {by}", {"what": what, "by": by, "reason": reason})
            record = AuditRecord(
                actor=by,
                action=f"rollout.{what}",
                target=str(rollout),
                change=str(rollout),
                result="asked",
                body={"reason": reason},
            )
            append(tx, record, self.clock)

    def _row(self, rollout_id: str) -> RolloutRow:
        with self.store.reading() as tx:
            return tx.rollout(rollout_id)

    def _evidence(self, row: RolloutRow) -> str | None:
        place = self.reporter.directory(row.id)
        return str(place) if row.closed and place.is_dir() else None


def _plan_json(plan: Plan) -> Json:
    return {
        "digest": str(plan.digest),
        "nothing_to_do": plan.nothing_to_do,
        "steps": list(plan.steps()),
        "body": plan.to_json(),
    }
