"""Reads ``policies/risk.yaml``: environments, the class of each action and what it asks for, gates, freezes, roles.

Nodes in, values out; each mistake is noted with its line. What must fit to the other two files is for ``policies``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import yaml

from stack.config.fields import WRONG, Kind, ListOf, OneOf, Text, Whole
from stack.config.policy_fields import Fields, Made, Many, Named, Truth, moment, time_of_day, timezone, word
from stack.config.policy_values import ClassRule, GateRule, OneFreeze, WeeklyFreeze
from stack.core.actions import Action, Risk
from stack.core.strict_yaml import Ledger, at, line_of

DENY = "deny"
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LONGEST_TTL_MINUTES = 30 * 24 * 60
LONGEST_FREEZE = timedelta(days=366)
ASKS_FOR_NOTHING = (Action.READ, Action.READ_AUDIT, Action.APPROVE, Action.REJECT, Action.REVOKE)
"""What the way out of a refusal needs: if an approval needed an approval, nothing would ever be approved."""
_KEYS = ("schema", "environments", "actions", "classes", "gates", "freezes", "roles")
_REQUIRED = ("schema", "environments", "actions", "classes", "roles")


@dataclass(frozen=True, kw_only=True)
class RiskFile:
    """The file's content. ``role_lines``: where each role of approvers is named first."""

    environments: tuple[str, ...]
    actions: Mapping[Action, Mapping[str, Risk]]
    classes: Mapping[Risk, ClassRule]
    gates: tuple[GateRule, ...]
    freezes: tuple[OneFreeze | WeeklyFreeze, ...]
    roles: Mapping[str, frozenset[Action]]
    role_lines: Mapping[str, int]


def read_risk(root: yaml.Node, ledger: Ledger) -> RiskFile | None:
    """The file, or None after notes in the ledger. Reads all of it in any case."""
    before = len(ledger.problems)
    nodes = ledger.mapping(root, "", _KEYS, _REQUIRED)
    environments = _environments(nodes, ledger)
    kinds = _kinds(environments)
    values = {key: kind.read(nodes[key], key, ledger) for key, kind in kinds.items() if key in nodes}
    if isinstance(values.get("actions"), dict) and isinstance(values.get("classes"), dict):
        _check_way_out(nodes["actions"], values["actions"], values["classes"], ledger)
    if len(ledger.problems) > before or environments is None:
        return None
    return RiskFile(
        environments=environments,
        actions=values["actions"],
        classes=values["classes"],
        gates=values.get("gates", ()),
        freezes=values.get("freezes", ()),
        roles=values["roles"],
        role_lines=_role_lines(nodes["classes"]),
    )


def _role_lines(classes: yaml.Node) -> dict[str, int]:
    """From the nodes of classes that were read without a mistake."""
    lines: dict[str, int] = {}
    for _, rule in classes.value:
        for key, roles in rule.value:
            for role in roles.value if key.value == "roles" and isinstance(roles, yaml.SequenceNode) else ():
                lines.setdefault(role.value, line_of(role))
    return lines


def _environments(nodes: Mapping[str, yaml.Node], ledger: Ledger) -> tuple[str, ...] | None:
    if "environments" not in nodes:
        return None
    read = Many(Text(word), 20, unlike=str).read(nodes["environments"], "environments", ledger)
    if read == ():
        ledger.note(nodes["environments"], "environments", "expected one environment at least")
    return None if read in (WRONG, ()) else read


def _kinds(environments: tuple[str, ...] | None) -> dict[str, Kind]:
    one: Kind = Text(word) if environments is None else OneOf(environments)
    some = Many(one, 20, unlike=str)
    actions = [action.value for action in Action]
    per_action: Kind = Named(word, _RISK, 20) if environments is None else Fields(dict.fromkeys(environments, _RISK))
    return {
        "schema": OneOf(("1",)),
        "actions": Made(Fields(dict.fromkeys(actions, per_action)), _actions),
        "classes": Made(Fields(dict.fromkeys(list(Risk), _class(some)), tuple(Risk)), _classes),
        "gates": Many(_gate(one), 100, unlike=lambda gate: (gate.environment, gate.action, gate.before)),
        "freezes": Many(_Freeze(ListOf(one, 20)), 200, unlike=lambda freeze: freeze.name),
        "roles": Named(word, _Asked(), 50),
    }


_RISK = OneOf((*Risk, DENY))


def _actions(read: dict[str, dict[str, str]]) -> dict[Action, dict[str, Risk]]:
    return {
        Action(action): {place: Risk(risk) for place, risk in risks.items() if risk != DENY}
        for action, risks in read.items()
    }


def _classes(read: dict[str, ClassRule]) -> dict[Risk, ClassRule]:
    return {Risk(name): rule for name, rule in read.items()}


def _class(environments: Kind) -> Kind:
    fields = Fields(
        {
            "ticket": environments,
            "approvers": Whole(0, 10),
            "roles": Many(Text(word), 20, unlike=str),
            "different_roles": Truth(),
            "separation": Truth(),
            "ttl_minutes": Whole(1, LONGEST_TTL_MINUTES),
            "frozen": Truth(),
        }
    )
    return Made(fields, _rule)


def _rule(read: dict[str, Any]) -> ClassRule:
    approvers, roles = read.get("approvers", 0), read.get("roles", ())
    if approvers and not roles:
        raise ValueError("approvers are asked for, but no roles that they must hold")
    if roles and not approvers:
        raise ValueError("roles are named, but no approvers asked for")
    if read.get("different_roles") and approvers > len(roles):
        raise ValueError(f"{approvers} approvers can't hold different roles of {len(roles)}")
    given = {key: value for key, value in read.items() if key not in ("ticket", "ttl_minutes")}
    if "ttl_minutes" in read:
        given["ttl_s"] = read["ttl_minutes"] * 60
    return ClassRule(ticket=frozenset(read.get("ticket", ())), **given)


def _gate(environment: Kind) -> Kind:
    kinds: dict[str, Kind] = {
        "environment": environment,
        "action": OneOf((Action.DEPLOY.value,)),
        "before": Whole(1, 100),
        "class": OneOf(tuple(Risk)),
    }
    return Made(Fields(kinds, tuple(kinds)), _gate_rule)


def _gate_rule(read: dict[str, Any]) -> GateRule:
    return GateRule(
        environment=read["environment"], action=Action(read["action"]), before=read["before"], risk=Risk(read["class"])
    )


class _Freeze:
    """One of the two forms; a weekly window is the one that says its days."""

    def __init__(self, environments: Kind) -> None:
        name = Text(longest=100)
        once: dict[str, Kind] = {
            "name": name,
            "environments": environments,
            "from": Text(moment),
            "until": Text(moment),
        }
        hour = Text(time_of_day)
        weekly: dict[str, Kind] = {"name": name, "environments": environments, "days": ListOf(OneOf(DAYS), 7)}
        weekly |= {"from": hour, "until": hour, "timezone": Text(timezone)}
        self._once = Made(Fields(once, tuple(once)), _one_freeze)
        self._weekly = Made(Fields(weekly, tuple(weekly)), _weekly_freeze)

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """A freeze, or WRONG after notes."""
        keys = {key.value for key, _ in node.value} if isinstance(node, yaml.MappingNode) else set()
        form = self._weekly if keys & {"days", "timezone"} else self._once
        return form.read(node, path, ledger)


def _one_freeze(read: dict[str, Any]) -> OneFreeze:
    begins, ends = read["from"], read["until"]
    if ends <= begins:
        raise ValueError("the freeze ends before it begins")
    if ends - begins > LONGEST_FREEZE:
        raise ValueError("the freeze is longer than a year: say deny in actions instead")
    return OneFreeze(name=read["name"], environments=frozenset(read["environments"]), begins=begins, ends=ends)


def _weekly_freeze(read: dict[str, Any]) -> WeeklyFreeze:
    days = [DAYS.index(day) for day in read["days"]]
    if len(set(days)) < len(days):
        raise ValueError("a day is named twice")
    return WeeklyFreeze(
        name=read["name"],
        environments=frozenset(read["environments"]),
        days=frozenset(days),
        begins=read["from"],
        ends=read["until"],
        timezone=read["timezone"],
    )


class _Asked:
    """What a role may ask for: a list of actions, or "*"."""

    def read(self, node: yaml.Node, path: str, ledger: Ledger) -> Any:
        """Actions, or WRONG after notes."""
        if isinstance(node, yaml.ScalarNode) and node.value == "*":
            return frozenset(Action)
        read = Many(OneOf([action.value for action in Action]), len(Action), unlike=str).read(node, path, ledger)
        return WRONG if read is WRONG else frozenset(Action(value) for value in read)


def _check_way_out(
    node: yaml.Node, actions: Mapping[Action, Mapping[str, Risk]], classes: Mapping[Risk, ClassRule], ledger: Ledger
) -> None:
    """Reading and answering a request must never need an approval, a ticket, or the end of a freeze."""
    entries = {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
    for action in ASKS_FOR_NOTHING:
        for place, risk in actions.get(action, {}).items():
            rule = classes[risk]
            if rule.approvers or place in rule.ticket or rule.frozen:
                where = at(at("actions", action.value), place)
                ledger.note(
                    entries[action], where, f"{risk} asks for something; {action} must be of a class that doesn't"
                )
