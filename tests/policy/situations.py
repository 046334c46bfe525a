"""Situations to decide about: policies, a request and approvals that satisfy them, and everything that can be broken.

Signatures here are made up (``seal``), so that thousands of situations are decided in seconds; what a real one is, the
tests of ``sshsig`` show, and ``test_policy_decision`` decides about real ones too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from stack.config.policy_values import ClassRule, GateRule, OneFreeze, Person, Policies, Signer
from stack.core.actions import Action, Risk
from stack.core.digest import Digest
from stack.core.errors import Refused
from stack.core.names import RequestId
from stack.policy.decision import Decision, decide
from stack.policy.statement import NAMESPACE, statement
from stack.store.approval_rows import ApprovalRow, RequestRow, RequestState

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PLAN, POLICY = Digest.of(b"plan"), Digest.of(b"policy")
ROLES = ("owner", "security", "platform")
NAMES = ("alice", "bob", "carol", "dave", "erin")
REQUESTER = "zoe"


@dataclass(frozen=True)
class Key:
    """What the made-up signatures are made by."""

    blob: bytes

    @property
    def fingerprint(self) -> str:
        """Like OpenSSH's."""
        return "SHA256:" + hashlib.sha256(self.blob).hexdigest()[:43]


class NotSigned(Refused):
    """No good signature: {detail}"""


def seal(blob: bytes, message: bytes, namespace: str = NAMESPACE) -> str:
    """A made-up signature."""
    return f"{blob.hex()}:{namespace}:{hashlib.sha256(message).hexdigest()}"


def opened(armored: str, message: bytes, namespace: str) -> Key:
    """The key that made it, as ``sshsig.verify`` would say."""
    blob, _, rest = armored.partition(":")
    if rest != f"{namespace}:{hashlib.sha256(message).hexdigest()}":
        raise NotSigned("another message or namespace")
    return Key(bytes.fromhex(blob))


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Everything that ``decide`` is given."""

    policies: Policies
    request: RequestRow
    approvals: tuple[ApprovalRow, ...]
    plan: Digest = PLAN
    environment: str = "production"
    now: datetime = NOW
    requester_known: bool = True

    def decided(self) -> Decision:
        """What is decided."""
        return decide(
            self.policies,
            self.request,
            self.approvals,
            plan=self.plan,
            environment=self.environment,
            now=self.now,
            requester_known=self.requester_known,
            verify=opened,
        )

    def but(self, **changed: Any) -> Situation:
        """With something else."""
        return replace(self, **changed)

    def with_request(self, **changed: Any) -> Situation:
        """With another request, and the signatures that were given for this one."""
        return replace(self, request=replace(self.request, **changed))

    def with_policies(self, **changed: Any) -> Situation:
        """With other policies."""
        return replace(self, policies=replace(self.policies, **changed))

    def with_vote(self, number: int, **changed: Any) -> Situation:
        """With one approval changed."""
        number %= len(self.approvals)
        votes = list(self.approvals)
        votes[number] = replace(votes[number], **changed)
        return replace(self, approvals=tuple(votes))

    def voter(self, number: int) -> Person:
        """Who gave an approval."""
        return self.policies.people[self.approvals[number % len(self.approvals)].person]


def key_of(name: str, number: int = 0) -> Key:
    """A person's key."""
    return Key(f"{name}-{number}".encode())


def signer(name: str, number: int = 0, **limits: datetime) -> Signer:
    """Its line in allowed_signers."""
    key = key_of(name, number)
    return Signer(person=name, key_type="made-up", blob=key.blob, fingerprint=key.fingerprint, **limits)


def people(roles: dict[str, Sequence[str]]) -> dict[str, Person]:
    """people.yaml."""
    return {name: Person(name=name, roles=frozenset(held)) for name, held in roles.items()}


def policies(rule: ClassRule, holders: dict[str, Sequence[str]], **changed: Any) -> Policies:
    """Where a deploy to production is R2, by this rule; each holder has two keys."""
    everybody = people({**holders, REQUESTER: ()})
    usual = Policies(
        digest=POLICY,
        environments=("dev", "production"),
        actions={Action.DEPLOY: {"dev": Risk.R1, "production": Risk.R2}},
        classes={Risk.R1: ClassRule(), Risk.R2: rule, Risk.R3: rule},
        gates=(GateRule(environment="production", action=Action.DEPLOY, before=100, risk=Risk.R3),),
        freezes=(),
        roles={"admin": frozenset(Action)},
        people=everybody,
        signers=tuple(signer(name, number) for name in everybody for number in (0, 1)),
    )
    return replace(usual, **changed)


def request(**changed: Any) -> RequestRow:
    """An open request of zoe's for a deploy to production."""
    usual = RequestRow(
        id=RequestId("rq-" + "a" * 20),
        change="CHG-1",
        action=Action.DEPLOY,
        gate="start",
        environment="production",
        target="tiny",
        plan=PLAN,
        policy=POLICY,
        risk=Risk.R2,
        requester=REQUESTER,
        created_at=NOW - HOUR,
        expires_at=NOW + HOUR,
        updated_at=NOW - HOUR,
    )
    return replace(usual, **changed)


def vote(asked: RequestRow, name: str, number: int = 0, **changed: Any) -> ApprovalRow:
    """This person's approval of this request."""
    key = key_of(name, number)
    usual = ApprovalRow(
        request=asked.id,
        person=name,
        fingerprint=key.fingerprint,
        signature=seal(key.blob, statement(asked)),
        created_at=NOW - HOUR / 2,
    )
    return replace(usual, **changed)


def situation(rule: ClassRule, holders: dict[str, Sequence[str]], voters: Sequence[str], **asked: Any) -> Situation:
    """These voters approved."""
    row = request(**asked)
    return Situation(policies=policies(rule, holders), request=row, approvals=tuple(vote(row, name) for name in voters))


def _edited(**changed: Any) -> Callable[[Situation, int], Situation]:
    return lambda given, _: given.with_request(**changed)


def _resigned(given: Situation, number: int, message: bytes, namespace: str = NAMESPACE) -> Situation:
    """One approval's key signed something else."""
    blob = key_of(given.voter(number).name).blob
    return given.with_vote(number, signature=seal(blob, message, namespace))


def _without_key(given: Situation, number: int) -> Situation:
    gone = given.voter(number).name
    return given.with_policies(signers=tuple(line for line in given.policies.signers if line.person != gone))


def _key_valid(given: Situation, number: int, **limits: datetime) -> Situation:
    name = given.voter(number).name
    lines = tuple(replace(line, **limits) if line.person == name else line for line in given.policies.signers)
    return given.with_policies(signers=lines)


def _demoted(given: Situation, number: int) -> Situation:
    name = given.voter(number).name
    return given.with_policies(people={**given.policies.people, name: Person(name=name, roles=frozenset({"admin"}))})


def _removed(given: Situation, number: int) -> Situation:
    name = given.voter(number).name
    return given.with_policies(people={k: v for k, v in given.policies.people.items() if k != name})


def _two_keys(given: Situation, number: int) -> Situation:
    """One approval is taken away, and somebody who approved already signs with a second key (or the same again)."""
    left = [row for at, row in enumerate(given.approvals) if at != number % len(given.approvals)]
    again = [vote(given.request, row.person, 1) for row in left] + left
    return given.but(approvals=(*left, *again))


def _shared_key(given: Situation, number: int) -> Situation:
    line = signer(given.voter(number).name)
    return given.with_policies(signers=(*given.policies.signers, replace(line, person=REQUESTER)))


def _by_requester(given: Situation, number: int) -> Situation:
    """Who approved is who asked: everything is signed for that, and only that is wrong."""
    name = given.voter(number).name.swapcase()
    row = replace(given.request, requester=name)
    return given.but(request=row, approvals=tuple(vote(row, old.person) for old in given.approvals))


def _frozen(given: Situation, _: int) -> Situation:
    freeze = OneFreeze(name="f", environments=frozenset({"production"}), begins=NOW - HOUR, ends=NOW + HOUR)
    return given.with_policies(freezes=(freeze,))


def _signed_anew(**changed: Any) -> Callable[[Situation, int], Situation]:
    """The request is another one, and everybody signed that."""

    def broken(given: Situation, _: int) -> Situation:
        row = replace(given.request, **changed)
        return given.but(request=row, approvals=tuple(vote(row, old.person) for old in given.approvals))

    return broken


OTHER = RequestId("rq-" + "b" * 20)
BREAKS: dict[str, Callable[[Situation, int], Situation]] = {
    **{f"the request is {state}": _edited(state=state) for state in RequestState if state is not RequestState.OPEN},
    "it expired just now": _signed_anew(expires_at=NOW),
    "it expired long ago": lambda given, _: given.but(now=NOW + DAY),
    "it is from the future": _signed_anew(created_at=NOW + HOUR / 2),
    "it lives too long": _signed_anew(created_at=NOW - 30 * DAY),
    "it says another class": _signed_anew(risk=Risk.R1),
    "the plan was edited": lambda given, _: given.but(plan=Digest.of(b"edited")),
    "it is for another plan": _signed_anew(plan=Digest.of(b"other")),
    "the policies were edited": lambda given, _: given.with_policies(digest=Digest.of(b"edited")),
    "it is by other policies": _signed_anew(policy=Digest.of(b"other")),
    "it is for dev": _signed_anew(environment="dev"),
    "it is used where no policy is": lambda given, _: given.but(environment="moon"),
    "the change id is missing": _signed_anew(change=""),
    "the change id is none": _signed_anew(change="CHG 1; rm -rf"),
    "there is no such gate": _signed_anew(gate="50"),
    "the action has no class": _signed_anew(action=Action.REPAIR),
    "the action is denied now": lambda given, _: given.with_policies(actions={}),
    "the class has no rule": lambda given, _: given.with_policies(classes={}),
    "the environment is gone": lambda given, _: given.with_policies(environments=("dev",)),
    "a freeze holds": _frozen,
    "the change was edited": _edited(change="CHG-2"),
    "the target was edited": _edited(target="big"),
    "the end was edited": _edited(expires_at=NOW + HOUR + timedelta(seconds=1)),
    "the requester was edited": _edited(requester="alan"),
    "the signatures are another request's": _edited(id=OTHER),
    "who asked approved": _by_requester,
    "it is not known who asked": lambda given, _: given.but(requester_known=False),
    "who asked is nobody of ours": _signed_anew(requester="alan"),
    "nobody approved": lambda given, _: given.but(approvals=()),
    "one is missing": lambda given, n: given.but(approvals=given.approvals[:-1]),
    "one was taken back": lambda given, n: given.with_vote(n, revoked_at=NOW - HOUR / 4),
    "one is of another request": lambda given, n: given.with_vote(n, request=OTHER),
    "one is from the future": lambda given, n: given.with_vote(n, created_at=NOW + HOUR),
    "one is no signature": lambda given, n: given.with_vote(n, signature="ff:garbage"),
    "one is replayed": lambda given, n: _resigned(given, n, statement(replace(given.request, id=OTHER))),
    "one has another namespace": lambda given, n: _resigned(given, n, statement(given.request), "git"),
    "one key is nobody's": lambda given, n: given.with_vote(n, signature=seal(b"?", statement(given.request))),
    "one key was removed": _without_key,
    "one key is over": lambda given, n: _key_valid(given, n, valid_before=NOW - timedelta(seconds=1)),
    "one key has not begun": lambda given, n: _key_valid(given, n, valid_after=NOW + timedelta(seconds=1)),
    "one key is two people's": _shared_key,
    "one was demoted": _demoted,
    "one has left": _removed,
    "one row says another person": lambda given, n: given.with_vote(n, person=REQUESTER),
    "one row says another key": lambda given, n: given.with_vote(n, fingerprint="SHA256:" + "0" * 43),
    "one human signs with two keys": _two_keys,
}
"""Each breaks exactly one thing that is needed, in a situation with no approval to spare."""
