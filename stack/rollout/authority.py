"""By which right a rollout goes over a line that policies guard: at its start, and before gated rungs.

Asked by the worker inside the transaction that takes the step, so under the lease and together with it: what is decided
is what is true when the step commits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stack.audit.append import append
from stack.audit.record import AuditRecord
from stack.config.policies import NoPolicies, PoliciesInvalid
from stack.core.actions import Action
from stack.core.clock import Clock
from stack.core.digest import Digest
from stack.policy.risk import strictest
from stack.rollout.change_report import ChangeReporter
from stack.rollout.gatekeeper import INC_04, Ask, Gatekeeper, Standing, request_record
from stack.rollout.state import Phase, RolloutState
from stack.store.approval_rows import RequestState
from stack.store.store import Reading, Transaction


@dataclass(frozen=True, kw_only=True)
class Authority:
    """The worker's Gate."""

    gatekeeper: Gatekeeper
    reports: ChangeReporter
    environment_of_stack: str
    clock: Clock

    def admit(self, tx: Transaction, state: RolloutState) -> str | None:
        """None: it may go on, and what allowed it is used up. Policies that can't be read allow nothing."""
        try:
            return self._admitted(tx, state)
        except (NoPolicies, PoliciesInvalid) as error:
            return error.message

    def _admitted(self, tx: Transaction, state: RolloutState) -> str | None:
        if state.phase is Phase.AWAITING:
            return self._past_gates(tx, state)
        if laxer := self._laxer(tx, state):
            self.refused(tx, state, laxer)
            return f"refused by policy when it was to begin: {laxer}"
        ask = replace(start_ask(state), environment=state.environment or self._held(tx, state))
        decision = self.gatekeeper.use(tx, ask, state.approval, str(state.id))
        if decision.granted:
            return None
        why = "; ".join((*decision.missing, *decision.refusals))
        self.refused(tx, state, why)
        return f"refused by policy when it was to begin: it lacks {why}"

    def ended(self, tx: Transaction, state: RolloutState) -> None:
        """Close what was still asked for it, and put the report of the change on record."""
        if state.gates:
            self._close(tx, state)
        self.reports.record(tx, state)

    def _close(self, tx: Transaction, state: RolloutState) -> None:
        for row in tx.requests(change=state.change, plan=str(state.plan), open_only=True):
            tx.close_request(row.id, RequestState.SUPERSEDED, reason=f"rollout {state.id} is {state.phase}")
            record = request_record(row, "change.superseded", "orchestrator", f"rollout {state.id} is {state.phase}")
            append(tx, record, self.clock)

    def may_restore(self, tx: Reading, service: str, replica: str) -> str | None:
        """Whether a replica of a release that serves already may be started again: None, or why not."""
        ask = Ask(
            action=Action.RESTORE_REPLICA,
            target=service,
            environment=tx.service(service).environment or self.environment_of_stack,
            plan=Digest.of(replica.encode()),
            requester="orchestrator",
        )
        decision = self.gatekeeper.look(tx, ask).decision
        return None if decision.granted else f"refused by policy: it lacks {'; '.join(decision.missing)}"

    def looks(self, tx: Reading, state: RolloutState) -> list[Standing]:
        """How the gates before the rung that is waited for stand."""
        return [self.gatekeeper.look(tx, ask) for ask in gate_asks(state)]

    def asks(self, tx: Transaction, state: RolloutState) -> list[Standing]:
        """The same; opens the requests that are not there."""
        return [self.gatekeeper.ask(tx, ask) for ask in gate_asks(state)]

    def _past_gates(self, tx: Transaction, state: RolloutState) -> str | None:
        asks = gate_asks(state)
        standings = [self.gatekeeper.look(tx, ask) for ask in asks]
        missing = [text for standing in standings for text in standing.decision.missing]
        if missing or not standings:
            return "; ".join(missing) or "no gate to pass is known"
        for ask, standing in zip(asks, standings, strict=True):
            used = self.gatekeeper.use(tx, ask, str(standing.request.id) if standing.kept else "", str(state.id))
            if not used.granted:
                return "; ".join(used.missing)
        return None

    def _laxer(self, tx: Reading, state: RolloutState) -> str | None:
        """Why the environment it names is not the one that its service is in. One of an older release names none."""
        order = self.gatekeeper.policies().environments
        held = self._held(tx, state)
        if not state.environment or strictest(order, held, state.environment) == state.environment:
            return None
        return f"{state.service} is in {held}, and it says {state.environment!r}"

    def _held(self, tx: Reading, state: RolloutState) -> str:
        """The environment that the service is in."""
        order = self.gatekeeper.policies().environments
        known = next((s.environment for s in tx.services() if s.name == state.service), "")
        return strictest(order, self.environment_of_stack, known)

    def refused(self, tx: Transaction, state: RolloutState, why: str) -> None:
        """Put on record, with an alert, that it was turned away before it began."""
        body = {"what": str(_action(state)), "why": why, "plan": str(state.plan), "request": state.approval}
        record = AuditRecord(
            actor=state.requester or "unknown",
            action="policy.refused",
            target=str(state.service),
            change=state.change or str(state.id),
            result="refused",
            body=body,
        )
        append(tx, record, self.clock)
        title = f"refused at execution: {_action(state)} of {state.service}"
        tx.raise_alert(INC_04, "critical", title, f"{state.requester}: {_action(state)}", body, self.clock.now())


def start_ask(state: RolloutState) -> Ask:
    """What the rollout's start needs."""
    return Ask(
        action=_action(state),
        target=str(state.service),
        environment=state.environment,
        plan=state.plan,
        requester=state.requester,
        change=state.change,
    )


def gate_asks(state: RolloutState) -> list[Ask]:
    """What the rung that is waited for needs: one for each gate on the way to it."""
    if state.awaiting is None:
        return []
    return [
        Ask(
            action=_action(state),
            target=str(state.service),
            environment=state.environment,
            plan=state.plan,
            requester=state.requester,
            change=state.change,
            gate=str(gate),
        )
        for gate in state.gates_before(state.awaiting)
    ]


def _action(state: RolloutState) -> Action:
    return Action.DEPLOY if state.kind == "deploy" else Action.ROLLBACK
