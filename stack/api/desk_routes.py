"""The routes of the desks: changes and their approvals, tokens, alerts. One line each; all rules stand elsewhere."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from stack.api import bodies
from stack.api.operator import Json
from stack.api.permissions import By, Ops, asks, claiming
from stack.core.actions import Action

ChangeRef = Annotated[str, Path(max_length=63, description="A change id (CHG-1) or a request id (rq-...).")]
OpenOnly = Annotated[bool, Query(alias="open", description="Only those that are open.")]
TokenId = Annotated[str, Path(max_length=63)]
AlertId = Annotated[int, Path(ge=0, le=2**53 - 1)]

router = APIRouter(prefix="/api/v1")


@router.get("/changes", **asks(Action.READ))
def get_changes(operator: Ops, open_only: OpenOnly = False) -> Json:
    """Requests for approval, newest first, and how long they wait."""
    return operator.changes.list(open_only)


@router.get("/changes/{change}", **asks(Action.READ))
def get_change(change: ChangeRef, operator: Ops) -> Json:
    """One change: its requests with what is to be signed, its plan, its rollouts."""
    return operator.changes.show(change)


@router.get("/changes/{change}/report", **asks(Action.READ))
def get_report(change: ChangeRef, operator: Ops) -> Json:
    """The post-change report, in Markdown and as values."""
    return operator.changes.report(change)


@router.post("/changes/{change}/approve", **asks(Action.APPROVE))
def post_approve(change: ChangeRef, body: bodies.Approve, operator: Ops, caller: By) -> Json:
    """Hand in a signature. Whose approval it is, the signature says, not the token."""
    return operator.changes.approve(change, body.signature, claiming(caller, body.claimed))


@router.post("/changes/{change}/reject", **asks(Action.REJECT))
def post_reject(change: ChangeRef, body: bodies.Reject, operator: Ops, caller: By) -> Json:
    """Refuse a change that waits."""
    return operator.changes.reject(change, body.reason, claiming(caller, body.claimed))


@router.post("/changes/{change}/revoke", **asks(Action.REVOKE))
def post_revoke(change: ChangeRef, body: bodies.Revoke, operator: Ops, caller: By) -> Json:
    """Take back a person's approval, or with no person the whole request."""
    return operator.changes.revoke(change, body.person, body.reason, claiming(caller, body.claimed))


@router.get("/hosts", **asks(Action.READ))
def get_hosts(operator: Ops) -> Json:
    """Every host of the inventory, with what it last said of itself."""
    return operator.machines.list()


@router.post("/hosts/check", **asks(Action.CHECK_HOST))
def post_check_hosts(body: bodies.CheckHosts, operator: Ops) -> Json:
    """Ask hosts now, through Ansible; what stands in the way of carrying replicas is said in words."""
    return operator.machines.check(body.host)


@router.get("/tokens", **asks(Action.READ))
def get_tokens(operator: Ops) -> Json:
    """Who has access; never the tokens themselves."""
    return operator.access.tokens()


@router.post("/tokens", **asks(Action.CREATE_TOKEN))
def post_token(body: bodies.CreateToken, operator: Ops, caller: By, response: Response) -> Json:
    """Give somebody access. The answer has the token, this once."""
    response.headers["cache-control"] = "no-store"
    request = body.model_dump(exclude={"claimed"})
    return operator.access.create_token(request, claiming(caller, body.claimed))


@router.post("/tokens/{token_id}/revoke", **asks(Action.REVOKE_TOKEN))
def post_revoke_token(token_id: TokenId, body: bodies.RevokeToken, operator: Ops, caller: By) -> Json:
    """Take access away."""
    return operator.access.revoke_token(token_id, body.change or "", claiming(caller, body.claimed))


@router.get("/alerts", **asks(Action.READ))
def get_alerts(operator: Ops, open_only: OpenOnly = False) -> Json:
    """What people must know, newest first."""
    return operator.access.alerts(open_only)


@router.post("/alerts/{alert_id}/acknowledge", **asks(Action.ACKNOWLEDGE))
def post_acknowledge(alert_id: AlertId, body: bodies.Acknowledge, operator: Ops, caller: By) -> Json:
    """Say that an alert was seen; the alerts that are still open."""
    return operator.access.acknowledge(alert_id, claiming(caller, body.claimed))
