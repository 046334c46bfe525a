"""Which request calls which method of the operator. One line each; all rules stand elsewhere.

Changes, tokens and alerts stand in ``desk_routes``.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from stack.api import bodies
from stack.api.operator import Json
from stack.api.permissions import By, Ops, asks, claiming, permit
from stack.api.stream import lines
from stack.core.actions import Action

LONGEST_WAIT_S = 25.0

Limit = Annotated[int, Query(ge=1, le=1000)]
Wait = Annotated[float, Query(ge=0, le=LONGEST_WAIT_S)]

health = APIRouter()
router = APIRouter(prefix="/api/v1")


def _asked(body: bodies.Body) -> Json:
    """What is asked for, without who says so."""
    return body.model_dump(exclude={"claimed"})


@health.get("/health")
def get_health() -> Json:
    """Alive; says nothing about the services."""
    return {"status": "ok"}


@router.get("/status", **asks(Action.READ))
def get_status(operator: Ops) -> Json:
    """What is true now."""
    return operator.status()


@router.get("/diff", **asks(Action.READ))
def get_diff(operator: Ops) -> Json:
    """Desired against observed."""
    return operator.diff()


@router.get("/gateway/health", **asks(Action.READ))
def get_gateway_health(operator: Ops) -> Json:
    """What the gateway says of itself."""
    return operator.gateway_health()


@router.post("/plan", **asks(Action.READ))
def post_plan(body: bodies.Deploy, operator: Ops) -> Json:
    """What a deploy would do."""
    return operator.plan(_asked(body))


def _deploy_or_simulate(request: Request, body: bodies.Deploy) -> None:
    permit(request, Action.SIMULATE if body.dry_run else Action.DEPLOY)


@router.post("/deploy", **asks(Action.DEPLOY, _deploy_or_simulate))
def post_deploy(body: bodies.Deploy, operator: Ops, caller: By) -> Json:
    """Begin a rollout, or with ``dry_run`` (the action rollout.simulate) show what it would do on the hosts."""
    return operator.deploy(_asked(body), claiming(caller, body.claimed))


@router.post("/rollback", **asks(Action.ROLLBACK))
def post_rollback(body: bodies.Rollback, operator: Ops, caller: By) -> Json:
    """Begin going back to the last known good."""
    return operator.rollback(_asked(body), claiming(caller, body.claimed))


@router.get("/rollouts", **asks(Action.READ))
def get_rollouts(operator: Ops, limit: Limit = 20) -> Json:
    """Newest first."""
    return operator.rollouts(limit)


@router.get("/rollouts/{rollout_id}", **asks(Action.READ))
def get_rollout(rollout_id: str, operator: Ops) -> Json:
    """One rollout."""
    return operator.rollout(rollout_id)


@router.get("/rollouts/{rollout_id}/events", **asks(Action.READ))
def get_events(rollout_id: str, operator: Ops, after: Annotated[int, Query(ge=0)] = 0, wait: Wait = 0) -> Json:
    """Long poll: events after ``after``, waiting up to ``wait`` seconds for the first."""
    return operator.events(rollout_id, after, wait)


@router.post("/rollouts/{rollout_id}/resume", **asks(Action.RESUME))
def post_resume(rollout_id: str, body: bodies.Resume, operator: Ops, caller: By) -> Json:
    """Let a paused rollout go on."""
    return operator.resume(rollout_id, claiming(caller, body.claimed))


@router.post("/rollouts/{rollout_id}/abort", **asks(Action.ABORT))
def post_abort(rollout_id: str, body: bodies.Abort, operator: Ops, caller: By) -> Json:
    """Stop a rollout and put traffic back."""
    return operator.abort(rollout_id, body.reason, claiming(caller, body.claimed))


@router.get("/models", **asks(Action.READ))
def get_models(operator: Ops) -> Json:
    """All registered model versions."""
    return operator.models()


@router.post("/models/register", **asks(Action.REGISTER))
def post_register(body: bodies.Register, operator: Ops, caller: By) -> StreamingResponse:
    """Register a manifest; JSON lines with progress, the result last."""
    by = claiming(caller, body.claimed)
    stream = lines(lambda on_progress: operator.register(body.path, body.format, on_progress, by))
    return StreamingResponse(stream, media_type="application/x-ndjson")


@router.post("/models/scrub", **asks(Action.REPAIR))
def post_scrub(body: bodies.Scrub, operator: Ops, caller: By) -> Json:
    """Verify everything in the store."""
    return operator.scrub(body.repair_from, claiming(caller, body.claimed))


@router.get("/models/{ref}", **asks(Action.READ))
def get_model(ref: str, operator: Ops) -> Json:
    """One model version."""
    return operator.model(ref)


@router.post("/models/{ref}/verify", **asks(Action.VERIFY))
def post_verify(ref: str, operator: Ops) -> Json:
    """Read every byte of it again."""
    return operator.verify(ref)


@router.get("/admin/audit", **asks(Action.READ_AUDIT))
def get_audit(operator: Ops, limit: Limit = 50, after: Annotated[int, Query(ge=-1)] = -1) -> Json:
    """Audit records: the last ``limit``, or those after ``after``."""
    return operator.audit(limit, after)
