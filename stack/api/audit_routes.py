"""The audit log over HTTP, for readers and verifiers: head, records, proofs, and the whole of it as a stream.

``/admin/audit`` itself, the newest records for people, stands in ``routes``.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse

from stack.api.operator import Json
from stack.api.permissions import Ops, asks
from stack.core.actions import Action

LARGEST = 2**53 - 1

router = APIRouter(prefix="/api/v1/admin/audit")
Count = Annotated[int, Query(ge=1, le=LARGEST)]
Number = Annotated[int, Path(ge=1, le=LARGEST)]
Perhaps = Annotated[int | None, Query(ge=1, le=LARGEST)]


@router.get("/head", **asks(Action.READ_AUDIT))
def get_head(operator: Ops) -> Json:
    """Size, root, newest checkpoint, verifier key, and how far every sink is."""
    return operator.records.head()


@router.get("/records/{seq}", **asks(Action.READ_AUDIT))
def get_record(seq: Number, operator: Ops) -> Json:
    """One record with its leaf hash."""
    return operator.records.show(seq)


@router.get("/proof/{seq}", **asks(Action.READ_AUDIT))
def get_proof(seq: Number, operator: Ops, size: Perhaps = None) -> Json:
    """That a record is in the tree of ``size``; without it, in that of the newest checkpoint."""
    return operator.records.prove(seq, size)


@router.get("/consistency", **asks(Action.READ_AUDIT))
def get_consistency(operator: Ops, old: Count, new: Count) -> Json:
    """That the tree of ``new`` records begins with that of ``old``."""
    return operator.records.consistency(old, new)


@router.get("/export", **asks(Action.READ_AUDIT))
def get_export(operator: Ops, start: Count = 1) -> StreamingResponse:
    """JSON lines; an export without its closing line was cut off."""
    return StreamingResponse(operator.records.export(start), media_type="application/x-ndjson")
