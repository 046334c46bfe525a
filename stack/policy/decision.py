"""Whether a request may go ahead: everything is shown again, nothing stored is believed. Pure.

The way to yes, numbered as in the body of ``decide``:

1. the policies give the action a class in this environment, and the request says the same class;
2. the request is open, neither expired nor from the future, and lives no longer than its class allows;
3. it was made for this plan, these policies and this environment;
4. there is a change id where the class asks for one;
5. no freeze holds it up;
6. enough people agree: each approval is judged by ``votes``, and ``enough`` counts people, never signatures.

Granted is only what misses nothing. Who wrote the rows and what happens after a no is for the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from stack.config.policy_values import ClassRule, Policies
from stack.core.digest import Digest
from stack.core.names import BadName, ChangeId
from stack.policy.counting import lacking
from stack.policy.freezing import Freeze, freeze_at
from stack.policy.risk import START, is_known_person, may_ask, person_named, risk_of, rule_of, who_may
from stack.policy.sshsig import verify as verify_signature
from stack.policy.votes import Verify, judged
from stack.policy.wording import missing_approvals
from stack.store.approval_rows import ApprovalRow, RequestRow, RequestState

__all__ = [
    "START",
    "Decision",
    "Freeze",
    "decide",
    "frozen",
    "is_known_person",
    "may_ask",
    "person_named",
    "risk_of",
    "rule_of",
    "who_may",
]

SKEW = timedelta(minutes=5)
"""How far the clocks of two machines may differ."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """``missing``: what stands in the way, in words. ``refusals``: why approvals that exist don't count. ``counted``:
    whose approvals do."""

    granted: bool
    missing: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()


def frozen(policies: Policies, environment: str, now: datetime) -> Freeze | None:
    """The freeze that holds ``environment`` now, if any."""
    return freeze_at(policies.freezes, environment, now)


def decide(
    policies: Policies,
    request: RequestRow,
    approvals: Sequence[ApprovalRow],
    *,
    plan: Digest,
    environment: str,
    now: datetime,
    requester_known: bool,
    verify: Verify = verify_signature,
) -> Decision:
    """May ``plan`` be done in ``environment`` now, by this request and these approvals?"""
    rule = rule_of(policies, request.action, environment, request.gate)
    if rule is None:  # 1
        return Decision(granted=False, missing=(_denied(request, environment),))
    missing = [f"a new request: {why}" for why in _stale(policies, request, rule, plan, environment, now)]  # 1, 2, 3
    missing += _ticket(rule, request.change, environment)  # 4
    freeze = frozen(policies, environment, now) if rule.frozen else None
    if freeze is not None:  # 5
        missing.append(f"the end of the {freeze}")
    votes = judged(policies, request, approvals, rule=rule, now=now, verify=verify)  # 6
    known = requester_known and is_known_person(policies, request.requester)
    lack = lacking(rule, votes.counted, known)
    if lack:
        missing.append(missing_approvals(policies, request, rule, votes.counted, lack, known=known, now=now))
    return Decision(
        granted=not missing,
        missing=tuple(missing),
        refusals=votes.refusals,
        counted=tuple(person.name for person in votes.counted),
    )


def _denied(request: RequestRow, environment: str) -> str:
    gate = "" if request.gate == START else f" before {request.gate} per cent"
    return f"a class in policies/risk.yaml: {request.action}{gate} has none in {environment!r}, so it is denied"


def _stale(
    policies: Policies, request: RequestRow, rule: ClassRule, plan: Digest, environment: str, now: datetime
) -> Iterator[str]:
    """Everything for which this request is not the one to go by."""
    if request.state is not RequestState.OPEN:
        yield f"{request.id} is {request.state.value}"
    if now >= request.expires_at:
        yield f"{request.id} expired at {request.expires_at:%Y-%m-%d %H:%M:%S} UTC"
    if request.created_at - now > SKEW:
        yield f"{request.id} was made at {request.created_at:%Y-%m-%d %H:%M:%S} UTC, which has not come yet"
    if request.expires_at - request.created_at > timedelta(seconds=rule.ttl_s):
        yield f"{request.id} lives longer than its class allows"
    if request.risk is not risk_of(policies, request.action, environment, request.gate):
        yield f"{request.id} says {request.risk}, the policies say another class"
    if request.plan != plan:
        yield f"{request.id} is for plan {request.plan.short}, this is plan {plan.short}"
    if request.policy != policies.digest:
        yield f"the policies changed since {request.id} was made"
    if request.environment != environment:
        yield f"{request.id} is for {request.environment}, this is {environment}"


def _ticket(rule: ClassRule, change: str, environment: str) -> list[str]:
    if environment not in rule.ticket:
        return []
    try:
        ChangeId(change)
    except BadName:
        return ["a change id: --change CHG-1"]
    return []
