"""How many people are lacking until a rule is satisfied. Pure; who counts at all, ``votes`` says.

Where all roles must be different this is a matching of people to roles: with alice {owner, security} and bob {owner}
both roles are there, whichever of them is looked at first.
"""

from __future__ import annotations

from collections.abc import Sequence

from stack.config.policy_values import ClassRule, Person


def lacking(rule: ClassRule, people: Sequence[Person], requester_known: bool) -> int:
    """How many more approvals the rule wants; 0: satisfied.

    A requester who is not known could be any one of those who approved, so then it must hold without each of them.
    """
    if rule.approvers == 0:
        return 0
    if requester_known or not rule.separation:
        return _short(rule, people)
    without = [[other for other in people if other is not one] for one in people]
    return max((_short(rule, rest) for rest in without), default=rule.approvers + 1)


def _short(rule: ClassRule, people: Sequence[Person]) -> int:
    if rule.different_roles:
        return max(0, rule.approvers - _matched(rule.roles, people))
    return max(0, rule.approvers - sum(1 for person in people if person.roles & set(rule.roles)))


def _matched(roles: Sequence[str], people: Sequence[Person]) -> int:
    """The most roles that can be filled with one person each (augmenting paths)."""
    holder: dict[str, Person] = {}

    def placed(person: Person, tried: set[str]) -> bool:
        for role in roles:
            if role in person.roles and role not in tried:
                tried.add(role)
                if role not in holder or placed(holder[role], tried):
                    holder[role] = person
                    return True
        return False

    return sum(placed(person, set()) for person in people)
