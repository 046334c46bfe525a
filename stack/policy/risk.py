"""How risky a thing is by the policies, who may ask for it and who may approve it. Pure.

What is not in the policies is denied: no class, no rule; no role that names it, no asking.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from stack.config.policy_values import ClassRule, Person, Policies, Signer
from stack.core.actions import Action, Risk

START = "start"
"""The gate that every action passes; the others are per cents of traffic, as text."""


def risk_of(policies: Policies, action: Action, environment: str, gate: str = START) -> Risk | None:
    """The class of an action (or of one of its gates); None: denied."""
    if environment not in policies.environments:
        return None
    if gate == START:
        return policies.actions.get(action, {}).get(environment)
    for rule in policies.gates:
        if (rule.environment, rule.action, str(rule.before)) == (environment, action, gate):
            return rule.risk
    return None


def rule_of(policies: Policies, action: Action, environment: str, gate: str = START) -> ClassRule | None:
    """What its class asks for; None: denied."""
    risk = risk_of(policies, action, environment, gate)
    return None if risk is None else policies.classes.get(risk)


def may_ask(policies: Policies, roles: Iterable[str], action: Action) -> bool:
    """Whether a token with these roles may ask for ``action`` at all."""
    return any(action in policies.roles.get(role, frozenset()) for role in roles)


def person_named(policies: Policies, name: str) -> Person | None:
    """The person of this name, however it is capitalised."""
    wanted = name.casefold()
    return next((person for person in policies.people.values() if person.name.casefold() == wanted), None)


def is_known_person(policies: Policies, name: str, *, shared: bool = False) -> bool:
    """Whether a token of this name says who asks: a personal one (not ``shared``), of somebody in people.yaml."""
    return not shared and person_named(policies, name) is not None


def who_may(policies: Policies, risk: Risk, requester: str = "", now: datetime | None = None) -> tuple[Person, ...]:
    """Who could approve this class: a role of the rule, a key (good at ``now``), and not the requester."""
    rule = policies.classes.get(risk)
    if rule is None:
        return ()
    with_key = {signer.person for signer in policies.signers if now is None or is_valid(signer, now)}
    people = sorted(policies.people.values(), key=lambda person: person.name)
    return tuple(
        person
        for person in people
        if person.name in with_key and person.roles & set(rule.roles) and not _excluded(rule, person, requester)
    )


def is_valid(signer: Signer, now: datetime) -> bool:
    """Whether the key counts at ``now``; as with OpenSSH both ends count."""
    begun = signer.valid_after is None or signer.valid_after <= now
    return begun and (signer.valid_before is None or now <= signer.valid_before)


def _excluded(rule: ClassRule, person: Person, requester: str) -> bool:
    return rule.separation and person.name.casefold() == requester.casefold()


def strictest(order: tuple[str, ...], *environments: str) -> str:
    """Of these environments the one that stands last in ``order`` (from lax to strict). One that the policies do not
    know is stricter than all: nothing has a class there, so nothing is allowed."""
    named = [e for e in environments if e]
    return max(named, key=lambda e: order.index(e) if e in order else len(order))
