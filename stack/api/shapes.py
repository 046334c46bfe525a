"""The one shape of errors, and what each HTTP status means, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class ErrorFacts(BaseModel):
    """``code`` is stable; ``exit_code`` is what stackctl leaves with."""

    code: str = Field(description="Stable, machine-readable.")
    message: str = Field(description="For people; may change.")
    hint: str = Field(description="What to do.")
    exit_code: int
    facts: dict[str, Any] = Field(description="What the message was made of.")


class ErrorBody(BaseModel):
    """The one shape of every error."""

    error: ErrorFacts


_MEANINGS = {
    400: "The input is wrong.",
    401: "The token is missing, unknown, expired or revoked.",
    403: "The policies forbid it (recorded, alert INC-04), or it waits for an approval (exit_code 7).",
    404: "There is no such thing.",
    409: "Refused by the evidence, or a conflict.",
    413: "The body is too large.",
    421: "The Host header names another machine.",
    422: "The request can't be understood.",
    431: "The headers are too large.",
    500: "A bug.",
    503: "Something needed is not available.",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": meaning} for status, meaning in _MEANINGS.items()
}
