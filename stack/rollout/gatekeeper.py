"""Asks the policies before anything privileged is done, and writes down what they say.

``ask`` finds the open request that fits, or opens one; ``use`` decides again, in the transaction that begins the
action, and uses the request up: two runs of one approval can't both be first. Policies are read anew each time, and
whatever can't be read is a no. What is refused is recorded and raises INC-04 (``Refusals``), in a transaction of its
own, since that of the action is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from stack.audit.append import append
from stack.audit.record import AuditRecord
from stack.config.policy_values import Policies
from stack.core.actions import Action
from stack.core.caller import Caller
from stack.core.clock import Clock, stamp
from stack.core.digest import Digest
from stack.core.errors import ApprovalNeeded, BypassAttempt
from stack.core.names import RequestId
from stack.policy.decision import START, Decision, decide, is_known_person, risk_of, rule_of, who_may
from stack.store.approval_rows import RequestRow, RequestState
from stack.store.errors import StoreCorrupt, UnknownRequest
from stack.store.store import Reading, Store, Transaction

INC_04 = "INC-04"
USED = "change.used"
TAKEN_BACK = "change.approval-revoked"
_ENDED = frozenset({USED, "change.rejected", "change.revoked", "change.superseded", "change.expired"})


class Denied(BypassAttempt):
    """Refused by policy: {action} on {target} in {environment}: {detail}"""


class NotApproved(ApprovalNeeded):
    """{action} on {target} in {environment} waits for: {detail}"""

    hint = "The plan and who may approve it: `stackctl change show`. Run the same command again once it is approved."


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What somebody wants to do. ``plan`` is the digest of its exact description; ``gate``: see ``RequestRow``."""

    action: Action
    target: str
    environment: str
    plan: Digest
    requester: str
    change: str = ""
    gate: str = START


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How an ask stands. ``kept``: the request is in the store, because its class wants approvals."""

    request: RequestRow
    kept: bool
    decision: Decision
    may: tuple[str, ...] = ()


def requester_of(caller: Caller) -> str:
    """The name under which a caller asks. That of a shared token has a form which no person's name can have."""
    return f"{caller.name} (shared)" if caller.shared else caller.name


@dataclass(frozen=True, kw_only=True)
class Gatekeeper:
    """The one way to a yes. ``policies`` reads them as they are now."""

    policies: Callable[[], Policies]
    clock: Clock

    def ask(self, tx: Transaction, ask: Ask) -> Standing:
        """How it stands now. Opens a request where approvals are wanted and none fits. No class: Denied."""
        policies = self.policies()
        fresh = self._fresh(policies, ask)
        rule = rule_of(policies, ask.action, ask.environment, ask.gate)
        if rule is None:
            raise Denied("it has no class", action=ask.action, target=ask.target, environment=ask.environment)
        ticket_missing = ask.environment in rule.ticket and not ask.change
        if rule.approvers == 0 or ticket_missing:
            return self._standing(tx, policies, ask, fresh, kept=False)
        found = self._fitting(tx, ask, policies.digest)
        if found is None:
            tx.insert_request(fresh)
            self._record(tx, fresh, "change.requested", ask.requester, "waits for approval")
        return self._standing(tx, policies, ask, found or fresh, kept=True)

    def look(self, tx: Reading, ask: Ask) -> Standing:
        """As ``ask``, but opens nothing."""
        policies = self.policies()
        fresh = self._fresh(policies, ask)
        rule = rule_of(policies, ask.action, ask.environment, ask.gate)
        open_now = tx.requests(plan=str(ask.plan), open_only=True) if rule and rule.approvers else ()
        found = next((r for r in open_now if _fits(r, ask, policies.digest) and r.expires_at > self.clock.now()), None)
        return self._standing(tx, policies, ask, found or fresh, kept=found is not None)

    def use(self, tx: Transaction, ask: Ask, request: str, used_by: str) -> Decision:
        """Decide again, now; if it is a yes, use the request up. ``request`` is empty where none was wanted."""
        policies = self.policies()
        try:
            row = tx.request(request) if request else self._fresh(policies, ask)
        except (Denied, UnknownRequest, StoreCorrupt) as error:
            return Decision(granted=False, missing=(f"a request that is good here: {error.message}",))
        if request and (row.action, row.target, row.gate, row.change) != (ask.action, ask.target, ask.gate, ask.change):
            return Decision(granted=False, missing=(f"a new request: {request} is for something else",))
        decision = self._standing(tx, policies, ask, row, kept=bool(request)).decision
        if request and (closed := closed_before(tx, row)):
            return Decision(granted=False, missing=(f"a new request: {closed}",))
        if not request and (rule := rule_of(policies, ask.action, ask.environment, ask.gate)) and rule.approvers:
            return Decision(granted=False, missing=("a request for approval: the policies want one now",))
        if decision.granted and request:
            tx.close_request(row.id, RequestState.USED, used_by=used_by)
            self._record(tx, row, USED, ask.requester, f"by {used_by}", counted=list(decision.counted))
        return decision

    def standing_of(self, tx: Reading, row: RequestRow) -> Standing:
        """How a stored request stands by the policies of now, for people."""
        policies = self.policies()
        ask = Ask(
            action=row.action,
            target=row.target,
            environment=row.environment,
            plan=row.plan,
            requester=row.requester,
            change=row.change,
            gate=row.gate,
        )
        return self._standing(tx, policies, ask, row, kept=True)

    def _standing(self, tx: Reading, policies: Policies, ask: Ask, row: RequestRow, *, kept: bool) -> Standing:
        now = self.clock.now()
        back = taken_back(tx, row) if kept else frozenset()
        decision = decide(
            policies,
            row,
            [a for a in tx.approvals(row.id) if a.person not in back] if kept else (),
            plan=ask.plan,
            environment=ask.environment,
            now=now,
            requester_known=is_known_person(policies, row.requester),
        )
        may = tuple(person.name for person in who_may(policies, row.risk, row.requester, now))
        return Standing(request=row, kept=kept, decision=decision, may=may)

    def _fresh(self, policies: Policies, ask: Ask) -> RequestRow:
        risk = risk_of(policies, ask.action, ask.environment, ask.gate)
        rule = rule_of(policies, ask.action, ask.environment, ask.gate)
        if risk is None or rule is None:
            detail = "the policies give it no class, so it is denied"
            raise Denied(detail, action=ask.action, target=ask.target, environment=ask.environment)
        now = self.clock.now()
        return RequestRow(
            id=RequestId.new(),
            change=ask.change,
            action=ask.action,
            gate=ask.gate,
            environment=ask.environment,
            target=ask.target,
            plan=ask.plan,
            policy=policies.digest,
            risk=risk,
            requester=ask.requester,
            created_at=now,
            expires_at=now + timedelta(seconds=rule.ttl_s),
            updated_at=now,
        )

    def _fitting(self, tx: Transaction, ask: Ask, policy: Digest) -> RequestRow | None:
        """The open request for exactly this. Those for the same thing by another plan or policy, or too old, end."""
        found = None
        for row in tx.requests(change=ask.change, open_only=True):
            if (row.action, row.gate, row.target, row.environment) != (
                ask.action,
                ask.gate,
                ask.target,
                ask.environment,
            ):
                continue
            if row.expires_at <= self.clock.now():
                tx.close_request(row.id, RequestState.EXPIRED)
                self._record(tx, row, "change.expired", "orchestrator", "not approved in time")
            elif _fits(row, ask, policy):
                found = found or row
            else:
                tx.close_request(row.id, RequestState.SUPERSEDED, reason=f"plan {ask.plan.short}")
                self._record(tx, row, "change.superseded", ask.requester, f"another plan: {ask.plan.short}")
        return found

    def _record(self, tx: Transaction, row: RequestRow, action: str, actor: str, result: str, **facts: Any) -> None:
        append(tx, request_record(row, action, actor, result, **facts), self.clock)


def _fits(row: RequestRow, ask: Ask, policy: Digest) -> bool:
    mine = (ask.change, ask.action, ask.gate, ask.environment, ask.target, ask.plan, policy)
    return (row.change, row.action, row.gate, row.environment, row.target, row.plan, row.policy) == mine


def taken_back(tx: Reading, row: RequestRow) -> frozenset[str]:
    """Whose approval of this request the log says was taken back."""
    records = tx.audit_of(row.change or str(row.id))
    mine = (r.body for r in records if r.action == TAKEN_BACK)
    return frozenset(str(body.get("person")) for body in mine if body.get("request") == str(row.id))


def closed_before(tx: Reading, row: RequestRow) -> str | None:
    """What the audit log has that ended this request or took an approval back, whatever its rows say now."""
    for record in tx.audit_of(row.change or str(row.id)):
        if record.action in _ENDED and record.body.get("request") == str(row.id):
            return f"by record {record.seq} of the log, {row.id} met {record.action}"
    return None


def request_record(row: RequestRow, action: str, actor: str, result: str, **facts: Any) -> AuditRecord:
    """The record of something that happened to a request."""
    said = {
        "request": str(row.id),
        "asked": row.action.value,
        "gate": row.gate,
        "environment": row.environment,
        "plan": str(row.plan),
        "policy": str(row.policy),
        "risk": row.risk.value,
        "requester": row.requester,
        "expires_at": stamp(row.expires_at),
    }
    return AuditRecord(
        actor=actor,
        action=action,
        target=row.target,
        change=row.change or str(row.id),
        result=result,
        body=said | facts,
    )


def needs_approval(standing: Standing) -> NotApproved:
    """What the one who asked is told: what is missing, who can give it, and how."""
    row, missing = standing.request, standing.decision.missing
    name = row.change or str(row.id)
    advice = "Run the same command again with what is missing."
    if standing.kept:
        advice = f"To give it: stackctl change approve {name} --key FILE (or --agent); then run the same command again."
    return NotApproved(
        "; ".join(missing),
        advice=advice,
        action=row.action.value,
        target=row.target,
        environment=row.environment,
        change=row.change,
        request=str(row.id) if standing.kept else "",
        plan=str(row.plan),
        risk=row.risk.value,
        expires_at=stamp(row.expires_at) if standing.kept else "",
        missing=list(missing),
        refusals=list(standing.decision.refusals),
        who=list(standing.may),
        command=f"stackctl change approve {name}" if standing.kept else "",
    )


@dataclass(frozen=True, kw_only=True)
class Refusals:
    """Writes down what was refused: an audit record and the INC-04 alert, together."""

    store: Store
    clock: Clock

    def record(
        self,
        actor: str,
        action: str,
        target: str,
        why: str,
        *,
        change: str = "",
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises what the store raises: a refusal that can't be recorded is an error, and still lets nobody pass."""
        body = {"what": action, "why": why, **(facts or {})}
        record = AuditRecord(
            actor=actor, action="policy.refused", target=target, change=change, result="refused", body=body
        )
        with self.store.transaction() as tx:
            append(tx, record, self.clock)
            title = f"refused: {action} on {target} by {actor}"
            tx.raise_alert(INC_04, "critical", title, f"{actor}: {action}"[:200], body, self.clock.now())

    @contextmanager
    def recorded(self, caller: Caller, action: str, target: str, change: str = "") -> Iterator[None]:
        """Whatever is refused inside is written down, then raised. What the caller claims is one fact of it."""
        try:
            yield
        except BypassAttempt as refused:
            facts = {"code": refused.code, "claimed": caller.claimed, "token": caller.token}
            self.record(requester_of(caller), action, target, refused.message, change=change, facts=facts)
            raise


def expired(row: RequestRow, clock: Clock) -> RequestRow:
    """The row as people should see it: an open one whose time is over is expired, though nobody has closed it yet."""
    over = row.state is RequestState.OPEN and row.expires_at <= clock.now()
    return replace(row, state=RequestState.EXPIRED) if over else row
