"""The one transaction in which a rollout begins: its row, its plan, the service's roles, and the audit record.

What may begin is decided before; only that nothing has changed meanwhile is looked at again here.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from stack.audit.append import append
from stack.audit.record import AuditRecord
from stack.core.caller import Caller
from stack.core.clock import Clock, stamp
from stack.core.errors import Conflict
from stack.core.names import RolloutId, ServiceName
from stack.rollout.gatekeeper import requester_of
from stack.rollout.plan import Plan
from stack.rollout.state import RolloutState
from stack.store.rows import RolloutRow, ServiceRow
from stack.store.store import Store


def begin(
    store: Store, clock: Clock, plan: Plan, service: ServiceName, *, caller: Caller, change: str, approval: str
) -> RolloutId:
    """Write that this plan is being carried out; the worker finds it. Conflict when the service changed meanwhile."""
    now = clock.now()
    state = RolloutState(
        id=RolloutId.new(),
        service=service,
        kind=plan.kind,
        plan=plan.digest,
        release=plan.release.digest,
        stable=plan.stable,
        lkg=plan.lkg,
        ladder=plan.ladder,
        reason=f"asked for by {caller.shown}" if plan.kind == "rollback" else "",
        entered_at=stamp(now),
        environment=plan.environment,
        change=change,
        requester=requester_of(caller),
        approval=approval,
        gates=plan.gates,
    )
    with store.transaction() as tx:
        known = next((s for s in tx.services() if s.name == service), None)
        if (known.stable if known else None) != plan.stable:
            raise Conflict("the service changed while it was planned", advice="Run the same command again.")
        if known is None:
            known = ServiceRow(name=service, stable=None, candidate=None, lkg=None, weights={}, updated_at=now)
        tx.put_service(replace(known, environment=plan.environment))
        tx.put_release(plan.release)
        tx.put_plan(plan.digest, plan.to_json())
        tx.insert_rollout(_row(state, now))
        append(tx, _record(state, plan, caller), clock)
        tx.add_event(state.id, "phase", f"planned: {plan.release.model} on {plan.release.runtime.ref}", {})
    return state.id


def _row(state: RolloutState, now: datetime) -> RolloutRow:
    return RolloutRow(
        id=state.id,
        service=state.service,
        kind=state.kind,
        phase=str(state.phase),
        state=state.to_json(),
        version=1,
        lease_epoch=0,
        created_at=now,
        updated_at=now,
        closed=False,
    )


def _record(state: RolloutState, plan: Plan, caller: Caller) -> AuditRecord:
    return AuditRecord(
        actor=caller.shown,
        action=f"rollout.{plan.kind}",
        target=plan.service,
        change=state.change or str(state.id),
        result="accepted",
        body={
            "rollout": str(state.id),
            "plan": str(plan.digest),
            "release": str(plan.release.digest),
            "environment": plan.environment,
            "approval": state.approval,
            "steps": list(plan.steps()),
        },
    )
