"""Everything that can be asked for has an action, and the shipped policies give every action a class everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest
from fastapi import FastAPI

from stack.api.permissions import OPEN_ROUTES, actions_of
from stack.api.server import create_app
from stack.cli.actions import COMMAND_ACTIONS
from stack.cli.main import cli
from stack.config.policies import load_policies
from stack.core.actions import Action
from stack.fleet.variables import PLAYBOOK_ACTIONS, PLAYBOOKS
from stack.policy.decision import risk_of, rule_of

ROOT = Path(__file__).parents[2]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command that can be typed, as its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, f"{' '.join((*path, name))} is announced, but there is no such command"
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name))


@pytest.fixture(scope="module")
def api() -> FastAPI:
    """The admin API; its operator is never asked anything here."""
    return create_app(cast(Any, SimpleNamespace(access=SimpleNamespace(refused=None))))


def test_every_route_has_an_action_and_only_health_is_open(api: FastAPI) -> None:
    found = actions_of(api)
    served = {(method, getattr(route, "path", "")) for route in api.routes for method in getattr(route, "methods", ())}
    assert len(found) > 20
    assert served - set(found) == OPEN_ROUTES == {("GET", "/health")}


def test_what_changes_something_does_not_ask_for_reading_only(api: FastAPI) -> None:
    reading = {name for name, action in actions_of(api).items() if action in (Action.READ, Action.READ_AUDIT)}
    assert {name for name in reading if name[0] != "GET"} <= {("POST", "/api/v1/plan")}


def test_every_action_is_asked_for_somewhere(api: FastAPI) -> None:
    """RUN is asked for by commands on this machine, RESTORE_REPLICA by the orchestrator itself."""
    asked = set(actions_of(api).values()) | {Action.RUN, Action.RESTORE_REPLICA, Action.SIMULATE}
    assert asked == set(Action)


def test_every_command_has_an_action() -> None:
    found = sorted(commands(cli))
    assert len(found) > 20
    assert found == sorted(COMMAND_ACTIONS)
    assert set(COMMAND_ACTIONS.values()) == set(Action) - {Action.SIMULATE, Action.RESTORE_REPLICA}


def test_every_playbook_has_an_action() -> None:
    files = {path.name for path in (ROOT / "playbooks").glob("*.y*ml")} - {"ruff.toml"}
    assert files >= set(PLAYBOOKS), "a playbook is announced that is not there"
    assert set(PLAYBOOK_ACTIONS) == set(PLAYBOOKS) == files


@pytest.mark.parametrize("environment", ["dev", "staging", "production"])
def test_the_shipped_policies_give_every_action_a_class(environment: str) -> None:
    policies = load_policies(ROOT / "policies")
    assert [action for action in Action if risk_of(policies, action, environment) is None] == []
    assert [action for action in Action if rule_of(policies, action, environment) is None] == []


def test_the_admin_may_ask_for_everything_and_every_action_is_in_some_narrower_role_or_is_about_access() -> None:
    roles = load_policies(ROOT / "policies").roles
    assert roles["admin"] == frozenset(Action)
    narrower = frozenset[Action]().union(*(asked for role, asked in roles.items() if role != "admin"))
    assert frozenset(Action) - narrower == {Action.CREATE_TOKEN, Action.REVOKE_TOKEN}
