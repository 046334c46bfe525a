"""Which approvals count, and why the others don't. Pure.

An approval counts when its signature verifies over the request's statement, the key is in ``allowed_signers`` now and
valid now, it belongs to one person only, who is in ``people.yaml`` now and holds a role of the rule now; when the row
says the same person and key as the signature; when it was not taken back; and when that person did not ask for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from stack.config.policy_values import ClassRule, Person, Policies
from stack.core.errors import StackError
from stack.policy.risk import is_valid
from stack.policy.statement import NAMESPACE, statement
from stack.store.approval_rows import ApprovalRow, RequestRow

_SKEW = timedelta(minutes=5)


class SigningKey(Protocol):
    """What a good signature says of the key that made it."""

    @property
    def blob(self) -> bytes: ...

    @property
    def fingerprint(self) -> str: ...


Verify = Callable[[str, bytes, str], SigningKey]
"""(armored signature, message, namespace) -> the key that made it; raises a StackError for anything else."""


@dataclass(frozen=True, kw_only=True)
class Votes:
    """``counted`` are people, each once, by name; ``refusals`` are sentences."""

    counted: tuple[Person, ...]
    refusals: tuple[str, ...]


class _DoesNotCount(Exception):
    """Carries the reason, for people."""


def judged(
    policies: Policies,
    request: RequestRow,
    approvals: Sequence[ApprovalRow],
    *,
    rule: ClassRule,
    now: datetime,
    verify: Verify,
) -> Votes:
    """Everybody who approved, and who doesn't count."""
    counted: dict[str, Person] = {}
    refusals: list[str] = []
    for approval in approvals:
        try:
            person = _signer(policies, request, approval, now, verify)
            _check_person(person, request, rule)
            if person.name.casefold() in counted:
                raise _DoesNotCount("counts once already, whatever other key it has")
            counted[person.name.casefold()] = person
        except _DoesNotCount as reason:
            refusals.append(f"{approval.person}: {reason}")
    people = tuple(person for _, person in sorted(counted.items()))
    return Votes(counted=people, refusals=tuple(refusals))


def _signer(policies: Policies, request: RequestRow, approval: ApprovalRow, now: datetime, verify: Verify) -> Person:
    """Whose approval it is, by the signature and the policies of now."""
    if approval.request != request.id:
        raise _DoesNotCount(f"approved {approval.request}, not {request.id}")
    if approval.revoked_at is not None:
        raise _DoesNotCount("the approval was taken back")
    if approval.created_at - now > _SKEW:
        raise _DoesNotCount("the approval is from a time that has not come yet")
    try:
        key = verify(approval.signature, statement(request), NAMESPACE)
    except StackError as error:
        raise _DoesNotCount(f"the signature is not one of this request: {error.message}") from error
    person = _owner(policies, key, now)
    if (approval.person, approval.fingerprint) != (person.name, key.fingerprint):
        raise _DoesNotCount(f"the record does not say what the signature says ({person.name}, {key.fingerprint})")
    return person


def _owner(policies: Policies, key: SigningKey, now: datetime) -> Person:
    lines = [signer for signer in policies.signers if signer.blob == key.blob]
    names = {signer.person for signer in lines}
    if not lines:
        raise _DoesNotCount(f"the key {key.fingerprint} is not in policies/allowed_signers")
    if len(names) > 1:
        raise _DoesNotCount(f"the key {key.fingerprint} belongs to more than one person")
    if not any(is_valid(signer, now) for signer in lines):
        raise _DoesNotCount(f"the key {key.fingerprint} is not valid now")
    person = policies.people.get(names.pop())
    if person is None:
        raise _DoesNotCount("is not in policies/people.yaml")
    return person


def _check_person(person: Person, request: RequestRow, rule: ClassRule) -> None:
    if not person.roles & set(rule.roles):
        raise _DoesNotCount(f"holds none of the roles {', '.join(rule.roles) or '(none)'}")
    if rule.separation and person.name.casefold() == request.requester.casefold():
        raise _DoesNotCount("asked for it, and so can't approve it")
