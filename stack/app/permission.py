"""Whether somebody may do something now: by which environment's policies it goes, and what they still want.

What is no rollout (tokens, registration, repairs, an abort) is asked here as a whole; a rollout's start is asked here
for the one who waits at the screen, and again by the worker when it begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stack.audit.append import append
from stack.audit.record import AuditRecord
from stack.config.policy_values import Policies
from stack.core.actions import Action
from stack.core.caller import Caller
from stack.core.clock import Clock
from stack.core.digest import Digest
from stack.core.errors import BypassAttempt, InvalidInput
from stack.policy.risk import strictest
from stack.rollout.gatekeeper import Ask, Denied, Gatekeeper, Refusals, Standing, needs_approval, requester_of
from stack.store.store import Store, Transaction

Json = dict[str, Any]


class UnknownEnvironment(InvalidInput):
    """The policies know no environment {environment}; they know: {known}."""

    hint = "See policies/risk.yaml."


class LaxerEnvironment(BypassAttempt):
    """Refused by policy: {service} is in {held}, and was asked for as if it were in {asked}."""


@dataclass(frozen=True, kw_only=True)
class Permit:
    """A yes that was given, to be used once, in the transaction that does what it is for."""

    gatekeeper: Gatekeeper
    ask: Ask
    request: str

    def use(self, tx: Transaction, used_by: str) -> None:
        """Decide again and use the approval up; raises Denied when it is a yes no more."""
        decision = self.gatekeeper.use(tx, self.ask, self.request, used_by)
        if not decision.granted:
            ask = self.ask
            lacks = "; ".join(decision.missing)
            raise Denied(f"it lacks {lacks}", action=ask.action, target=ask.target, environment=ask.environment)


@dataclass(frozen=True, kw_only=True)
class Permission:
    """``environment_of_stack`` is the stack file's; ``policies`` reads them as they are now."""

    store: Store
    gatekeeper: Gatekeeper
    refusals: Refusals
    policies: Callable[[], Policies]
    environment_of_stack: str
    clock: Clock

    def environment(self, service: str, asked: str | None) -> str:
        """The environment by whose policies a service is changed: what is asked for, but never a laxer one than that
        of the stack file or of the service's last deploy."""
        order = self.policies().environments
        with self.store.reading() as tx:
            row = next((s for s in tx.services() if s.name == service), None)
        held = strictest(order, self.environment_of_stack, row.environment if row else "")
        if asked is None or asked == held:
            return held
        if asked not in order:
            raise UnknownEnvironment(environment=repr(asked)[:60], known=", ".join(order))
        if strictest(order, asked, held) != asked:
            raise LaxerEnvironment(service=service, held=held, asked=asked)
        return asked

    def everywhere(self) -> str:
        """The environment for what concerns the whole stack: the strictest that any part of it is in."""
        with self.store.reading() as tx:
            held = [s.environment for s in tx.services()]
        return strictest(self.policies().environments, self.environment_of_stack, *held)

    def permitted(self, action: Action, target: str, body: Json, change: str, caller: Caller) -> Permit:
        """Ask for something that is no rollout; its exact description is what gets approved."""
        environment = self.everywhere()
        plan = {"action": action.value, "target": target, "environment": environment, "body": body}
        plan["policy"] = str(self.policies().digest)
        ask = Ask(
            action=action,
            target=target,
            environment=environment,
            plan=Digest.of_value(plan),
            requester=requester_of(caller),
            change=change,
        )
        return Permit(gatekeeper=self.gatekeeper, ask=ask, request=self.passed(ask, plan, caller))

    def passed(self, ask: Ask, body: Json, caller: Caller) -> str:
        """The request by which the policies allow it now (empty: they want none). Raises what is missing; both the
        question and the answer are in the log."""
        with self.refusals.recorded(caller, ask.action, ask.target, ask.change):
            with self.store.transaction() as tx:
                standing = self.gatekeeper.ask(tx, ask)
                tx.put_plan(ask.plan, body)
                if not standing.decision.granted:
                    append(tx, _waits(ask, standing, caller), self.clock)
            if not standing.decision.granted:
                raise needs_approval(standing)
        return str(standing.request.id) if standing.kept else ""


def _waits(ask: Ask, standing: Standing, caller: Caller) -> AuditRecord:
    body = {"asked": ask.action.value, "plan": str(ask.plan), "missing": list(standing.decision.missing)}
    return AuditRecord(
        actor=caller.shown, action="policy.waits", target=ask.target, change=ask.change, result="not yet", body=body
    )
