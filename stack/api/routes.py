"""Which request calls which method of the operator. One line each; all rules stand elsewhere."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse

from stack.api import bodies
from stack.api.operator import Json, Operator
from stack.api.stream import lines

LONGEST_WAIT_S = 25.0


def _operator(request: Request) -> Operator:
    operator: Operator = request.app.state.operator
    return operator


Ops = Annotated[Operator, Depends(_operator)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Wait = Annotated[float, Query(ge=0, le=LONGEST_WAIT_S)]

health = APIRouter()
router = APIRouter(prefix="/api/v1")


@health.get("/health")
def get_health() -> Json:
    """Alive; says nothing about the services."""
    return {"status": "ok"}


@router.get("/status")
def get_status(operator: Ops) -> Json:
    """What is true now."""
    return operator.status()


@router.get("/diff")
def get_diff(operator: Ops) -> Json:
    """Desired against observed."""
    return operator.diff()


@router.get("/gateway/health")
def get_gateway_health(operator: Ops) -> Json:
    """What the gateway says of itself."""
    return operator.gateway_health()


@router.post("/plan")
def post_plan(body: bodies.Deploy, operator: Ops) -> Json:
    """What a deploy would do."""
    return operator.plan(body.model_dump())


@router.post("/deploy")
def post_deploy(body: bodies.Deploy, operator: Ops) -> Json:
    """Begin a rollout."""
    return operator.deploy(body.model_dump())


@router.post("/rollback")
def post_rollback(body: bodies.Rollback, operator: Ops) -> Json:
    """Begin going back to the last known good."""
    return operator.rollback(body.model_dump())


@router.get("/rollouts")
def get_rollouts(operator: Ops, limit: Limit = 20) -> Json:
    """Newest first."""
    return operator.rollouts(limit)


@router.get("/rollouts/{rollout_id}")
def get_rollout(rollout_id: str, operator: Ops) -> Json:
    """One rollout."""
    return operator.rollout(rollout_id)


@router.get("/rollouts/{rollout_id}/events")
def get_events(rollout_id: str, operator: Ops, after: Annotated[int, Query(ge=0)] = 0, wait: Wait = 0) -> Json:
    """Long poll: events after ``after``, waiting up to ``wait`` seconds for the first."""
    return operator.events(rollout_id, after, wait)


@router.post("/rollouts/{rollout_id}/resume")
def post_resume(rollout_id: str, body: bodies.Resume, operator: Ops) -> Json:
    """Let a paused rollout go on."""
    return operator.resume(rollout_id, body.actor)


@router.post("/rollouts/{rollout_id}/abort")
def post_abort(rollout_id: str, body: bodies.Abort, operator: Ops) -> Json:
    """Stop a rollout and put traffic back."""
    return operator.abort(rollout_id, body.reason, body.actor)


@router.get("/models")
def get_models(operator: Ops) -> Json:
    """All registered model versions."""
    return operator.models()


@router.post("/models/register")
def post_register(body: bodies.Register, operator: Ops) -> StreamingResponse:
    """Register a manifest; JSON lines with progress, the result last."""
    stream = lines(lambda on_progress: operator.register(body.path, body.format, on_progress))
    return StreamingResponse(stream, media_type="application/x-ndjson")


@router.post("/models/scrub")
def post_scrub(body: bodies.Scrub, operator: Ops) -> Json:
    """Verify everything in the store."""
    return operator.scrub(body.repair_from)


@router.get("/models/{ref}")
def get_model(ref: str, operator: Ops) -> Json:
    """One model version."""
    return operator.model(ref)


@router.post("/models/{ref}/verify")
def post_verify(ref: str, operator: Ops) -> Json:
    """Read every byte of it again."""
    return operator.verify(ref)


@router.get("/admin/audit")
def get_audit(operator: Ops, limit: Limit = 50, after: Annotated[int, Query(ge=-1)] = -1) -> Json:
    """Audit records: the last ``limit``, or those after ``after``."""
    return operator.audit(limit, after)
