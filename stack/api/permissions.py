"""Which action each route asks for, and the question itself. A route that asks for nothing can't be served.

``asks`` is given to every route's decorator; ``actions_of`` reads the finished application and refuses one with a route
that does not ask. Who may do what is decided by the operator's access desk, from the policies as they are now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from stack.api.operator import Operator
from stack.api.shapes import RESPONSES
from stack.core.actions import Action
from stack.core.caller import Caller
from stack.core.errors import StackError

CALLER = "stack.caller"
"""Where the guard puts the caller into the request's scope."""
OPEN_ROUTES = frozenset({("GET", "/health")})
_MARK = "asks"


class UnguardedRoute(StackError):
    """{route} names no action that it asks for, so the admin API does not start."""


def operator_of(request: Request) -> Operator:
    """The operator behind this application."""
    operator: Operator = request.app.state.operator
    return operator


def caller_of(request: Request) -> Caller:
    """Who asks, as the guard found out."""
    caller: Caller = request.scope[CALLER]
    return caller


Ops = Annotated[Operator, Depends(operator_of)]
By = Annotated[Caller, Depends(caller_of)]


def claiming(caller: Caller, claimed: str | None) -> Caller:
    """The caller with what the client says of itself."""
    return replace(caller, claimed=claimed or "")


def permit(request: Request, action: Action) -> None:
    """Raises NotPermitted, which is recorded by then."""
    operator_of(request).access.permit(caller_of(request), action)


def asks(action: Action, check: Callable[..., None] | None = None) -> dict[str, Any]:
    """What a route's decorator needs: ``@router.get("/status", **asks(Action.READ))``.

    ``check`` stands in for the plain question where the body decides which action it is; it calls ``permit`` itself.
    """

    def plainly(request: Request) -> None:
        permit(request, action)

    asked = check or plainly
    setattr(asked, _MARK, action)
    return {
        "dependencies": [Depends(asked)],
        "tags": [action.value],
        "responses": RESPONSES,
        "openapi_extra": {"x-action": action.value},
    }


def actions_of(app: FastAPI) -> Mapping[tuple[str, str], Action]:
    """``(method, path) -> action`` of every route but the open ones; raises UnguardedRoute."""
    found: dict[tuple[str, str], Action] = {}
    for route in app.routes:
        for method in sorted(getattr(route, "methods", None) or {"any method"}):
            name = (method, str(getattr(route, "path", route)))
            if name in OPEN_ROUTES:
                continue
            found[name] = _action(route, " ".join(name))
    return found


def _action(route: BaseRoute, name: str) -> Action:
    called = [d.call for d in route.dependant.dependencies] if isinstance(route, APIRoute) else []
    asked = [action for call in called if isinstance(action := getattr(call, _MARK, None), Action)]
    if len(asked) != 1:
        raise UnguardedRoute(route=name)
    return asked[0]
