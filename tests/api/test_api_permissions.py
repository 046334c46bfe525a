"""Every route asks for its action before it does anything; a route that asks for nothing can't be served."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fake_desks import TOKEN, VIEWER
from fake_operator import FakeOperator
from fastapi import APIRouter, FastAPI
from served import served

from stack.api.document import document_of
from stack.api.permissions import OPEN_ROUTES, UnguardedRoute, actions_of, asks
from stack.api.server import create_app
from stack.core.actions import Action

APP = create_app(FakeOperator())
ACTIONS = actions_of(APP)
DOCUMENT = document_of(APP)
NOT_ROUTES = {Action.RESTORE_REPLICA, Action.RUN, Action.SIMULATE}
"""What the orchestrator does itself, what needs no control plane, and what ``dry_run`` in a deploy's body means."""
BODIES: dict[str, dict[str, Any]] = {
    "/api/v1/models/register": {"path": "/m.yaml"},
    "/api/v1/rollouts/{rollout_id}/abort": {"reason": "r"},
    "/api/v1/changes/{change}/approve": {"signature": "s"},
    "/api/v1/changes/{change}/reject": {"reason": "r"},
    "/api/v1/changes/{change}/revoke": {"reason": "r"},
    "/api/v1/tokens": {"name": "x", "roles": ["viewer"]},
}


def test_every_action_that_can_be_asked_for_over_http_has_a_route() -> None:
    assert set(ACTIONS.values()) == set(Action) - NOT_ROUTES


def test_only_health_is_open() -> None:
    served_at = {(m, r.path) for r in APP.routes for m in r.methods}  # type: ignore[attr-defined]
    assert served_at - set(ACTIONS) == OPEN_ROUTES == {("GET", "/health")}


def test_looking_is_get_and_changing_is_not() -> None:
    looking = {Action.READ, Action.READ_AUDIT}
    assert {name for (method, name), action in ACTIONS.items() if action in looking and method != "GET"} == {
        "/api/v1/plan"
    }
    assert all(action in looking for (method, _), action in ACTIONS.items() if method == "GET")


def nothing() -> None:
    """A route's body."""


@pytest.mark.parametrize("mistake", ["nothing", "twice"])
def test_a_route_that_does_not_ask_once_can_not_be_served(mistake: str) -> None:
    app, router = FastAPI(openapi_url=None, docs_url=None, redoc_url=None), APIRouter()
    asked = [*asks(Action.READ)["dependencies"], *asks(Action.DEPLOY)["dependencies"]]
    router.add_api_route("/x", nothing, methods=["GET"], dependencies=asked if mistake == "twice" else None)
    app.router.routes.extend(router.routes)
    with pytest.raises(UnguardedRoute, match="GET /x"):
        actions_of(app)


def test_a_mounted_application_can_not_be_served() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.mount("/more", FastAPI())
    with pytest.raises(UnguardedRoute):
        actions_of(app)


@pytest.mark.parametrize(("method", "path"), sorted(ACTIONS), ids=lambda text: str(text))
def test_a_role_that_may_not_does_not_reach_the_operator(method: str, path: str) -> None:
    operator = FakeOperator()
    action = ACTIONS[method, path]
    asked = re.sub(r"\{\w+\}", "1", path) + ("?old=1&new=2" if path.endswith("consistency") else "")
    with served(operator) as api:
        body = BODIES.get(path, {}) if method == "POST" else None
        answer = api.ask(method, asked, body, Authorization=f"Bearer {VIEWER}")
    assert operator.access.permitted == [("vera", action)]
    if action is Action.READ:
        assert answer.status in (200, 404)
        return
    assert answer.status == 403
    assert answer.json["error"]["code"] == "NotPermitted"
    assert operator.calls == []


@pytest.mark.parametrize(("body", "action"), [({"dry_run": True}, Action.SIMULATE), ({}, Action.DEPLOY)])
def test_a_dry_run_asks_for_less(body: dict[str, Any], action: Action) -> None:
    operator = FakeOperator()
    with served(operator) as api:
        assert api.ask("POST", "/api/v1/deploy", body).status == 200
    assert operator.access.permitted == [("operator", action)]


def test_what_a_client_claims_is_not_who_it_is() -> None:
    operator = FakeOperator()
    with served(operator) as api:
        api.ask("POST", "/api/v1/rollouts/ro-a/resume", {"claimed": "anna"}, Authorization=f"Bearer {TOKEN}")
    assert operator.calls[-1] == ("resume", ("ro-a", "operator (anna)"))


def test_the_document_names_action_summary_errors_and_security_of_every_route() -> None:
    assert DOCUMENT["security"] == [{"token": []}]
    assert DOCUMENT["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            name = (method.upper(), path)
            assert operation["summary"], name
            assert operation["description"], name
            if name in OPEN_ROUTES:
                assert operation["security"] == []
                continue
            assert operation["tags"] == [ACTIONS[name].value] == [operation["x-action"]]
            assert {"401", "403", "409", "413", "422", "503"} <= set(operation["responses"]), name
            for status, response in operation["responses"].items():
                if status != "200":
                    schema = response["content"]["application/json"]["schema"]
                    assert schema["$ref"].endswith("/ErrorBody"), (name, status)


def test_the_document_lists_every_route_and_needs_a_token() -> None:
    listed = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert listed == (set(ACTIONS) | OPEN_ROUTES) - {("GET", "/openapi.json")}
    with served(FakeOperator()) as api:
        assert api.ask("GET", "/openapi.json").json["paths"].keys() == DOCUMENT["paths"].keys()
        assert api.ask("GET", "/openapi.json", Authorization="").status == 401


def test_bodies_refuse_what_they_do_not_know() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        if name not in ("ErrorBody", "ErrorFacts"):
            assert schema["additionalProperties"] is False, name


def test_a_new_token_is_not_to_be_kept_by_caches() -> None:
    with served(FakeOperator()) as api:
        answer = api.ask("POST", "/api/v1/tokens", {"name": "x", "roles": ["viewer"]})
    assert answer.headers["cache-control"] == "no-store"
