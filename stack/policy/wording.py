"""What is missing, said so that people know whom to ask. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from stack.config.policy_values import ClassRule, Person, Policies
from stack.policy.risk import who_may
from stack.store.approval_rows import RequestRow

_UNKNOWN = "; one more than usual, as the token that asked names no person"


def missing_approvals(
    policies: Policies,
    request: RequestRow,
    rule: ClassRule,
    counted: Sequence[Person],
    lack: int,
    *,
    known: bool,
    now: datetime,
) -> str:
    """E.g. ``1 approval by a person with role owner (alice, bob)``."""
    done = {person.name for person in counted}
    able = [p for p in who_may(policies, request.risk, request.requester, now) if p.name not in done]
    extra = "" if known or not rule.separation else _UNKNOWN
    return f"{_asked(rule, lack)} ({_those(able, rule) or nobody(rule)}{extra})"


def nobody(rule: ClassRule) -> str:
    """What to do when nobody can be asked."""
    roles = " or ".join(rule.roles)
    return f"nobody else may: add a person with role {roles} to policies/people.yaml and a key to allowed_signers"


def _asked(rule: ClassRule, lack: int) -> str:
    word = "1 approval by a person" if lack == 1 else f"{lack} approvals by people"
    if rule.different_roles:
        return f"{word}, so that {rule.approvers} different roles of {', '.join(rule.roles)} agree"
    return f"{word} with role {' or '.join(rule.roles)}"


def _those(people: Sequence[Person], rule: ClassRule) -> str:
    if not rule.different_roles:
        return ", ".join(person.name for person in people)
    return ", ".join(f"{p.name}: {' and '.join(sorted(p.roles & set(rule.roles)))}" for p in people)
