"""What policies say that is no mistake, but that somebody should know: what is denied, what nobody may approve. Pure.

Keys count however old they are: whether one is valid depends on the day.
"""

from __future__ import annotations

from collections.abc import Iterator

from stack.config.policy_values import ClassRule, Policies
from stack.core.actions import Action
from stack.policy.counting import lacking


def warnings(policies: Policies) -> tuple[str, ...]:
    """Sentences for ``doctor`` and ``status``; empty: nothing to say."""
    return (*_denied(policies), *_unanswerable(policies), *_keyless(policies))


def _denied(policies: Policies) -> Iterator[str]:
    for action in Action:
        missing = [place for place in policies.environments if place not in policies.actions.get(action, {})]
        if missing:
            yield f"{action} has no class in {', '.join(missing)}: it is denied there"


def _unanswerable(policies: Policies) -> Iterator[str]:
    for place in policies.environments:
        used = {risks[place] for risks in policies.actions.values() if place in risks}
        used |= {gate.risk for gate in policies.gates if gate.environment == place}
        for risk in sorted(used):
            lack = _lack(policies, policies.classes[risk])
            if lack:
                yield f"nobody may approve {risk} in {place}: {_advice(policies.classes[risk], lack)}"


def _lack(policies: Policies, rule: ClassRule) -> int:
    """How many people are lacking, if nobody of those there are is the one who asks."""
    with_key = {signer.person for signer in policies.signers}
    return lacking(rule, [person for name, person in policies.people.items() if name in with_key], True)


def _advice(rule: ClassRule, lack: int) -> str:
    who = "a person" if lack == 1 else f"{lack} people"
    roles = f"role {' or '.join(rule.roles)}"
    key = "a key" if lack == 1 else "a key of each"
    different = " (different roles)" if rule.different_roles else ""
    return f"add {who} with {roles}{different} to policies/people.yaml and {key} to policies/allowed_signers"


def _keyless(policies: Policies) -> Iterator[str]:
    with_key = {signer.person for signer in policies.signers}
    for name in sorted(set(policies.people) - with_key):
        yield f"{name} can't approve anything: there is no key of theirs in policies/allowed_signers"
