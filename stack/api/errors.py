"""One shape for every error the API answers, and the HTTP status that fits its category."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from stack.core.errors import (
    ApprovalNeeded,
    BypassAttempt,
    Conflict,
    InvalidInput,
    NotEnoughEvidence,
    Refused,
    StackError,
    Unavailable,
)

_LOG = logging.getLogger("stack.api")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z_-]{0,30}|[0-9]{1,9}", re.ASCII)
_STATUS: tuple[tuple[type[StackError], int], ...] = (
    (InvalidInput, 400),
    (BypassAttempt, 403),
    (Refused, 409),
    (Conflict, 409),
    (NotEnoughEvidence, 409),
    (ApprovalNeeded, 403),
    (Unavailable, 503),
)


class BadRequest(InvalidInput):
    """The request can't be understood: {detail}."""

    hint = "See GET /openapi.json for what each request takes."


class HttpProblem(InvalidInput):
    """{detail}"""


class InternalError(StackError):
    """The control plane failed at {path}: {detail}."""

    hint = "This is a bug. The details stand in logs/control-plane.log."


def status_of(error: StackError) -> int:
    """The HTTP status of an error's category; unknown things are 404."""
    if isinstance(error, BadRequest):
        return 422
    if isinstance(error, InvalidInput) and error.code.startswith("Unknown"):
        return 404
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def answer(error: StackError, status: int | None = None, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The error as a response."""
    return JSONResponse(error.to_json(), status_code=status or status_of(error), headers=dict(headers or {}))


def _problems(error: RequestValidationError) -> list[dict[str, Any]]:
    """Where and what, each once, without the values sent: they may be secret. Nor names that no field has."""
    found = {(".".join(_shown(p) for p in e["loc"]), e["msg"]): None for e in error.errors()}
    return [{"path": path, "problem": problem} for path, problem in found]


def _shown(part: object) -> str:
    return str(part) if _FIELD.fullmatch(str(part)) else "(unreadable name)"


async def _on_stack_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StackError)
    return answer(error)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = _problems(error)
    detail = "; ".join(f"{p['path']}: {p['problem']}" for p in problems)
    return answer(BadRequest(detail, problems=problems))


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = f"{request.method} {request.url.path}: {error.detail}"
    return answer(HttpProblem(detail), error.status_code, error.headers)


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer(InternalError(type(error).__name__, path=request.url.path), 500)


def install(app: FastAPI) -> None:
    """Make every error of this app leave in the one shape."""
    app.add_exception_handler(StackError, _on_stack_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
