"""The OpenAPI document: complete enough to write a client from. It is read with a token, as everything else."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request

from stack.api.permissions import asks
from stack.core.actions import Action

DESCRIPTION = """\
Everything `stackctl` does goes through here. A route's tag is the action it asks for (`x-action`): the policies say
which roles may ask for it, and what it needs to go ahead. Lists are newest first. Times are RFC 3339, UTC.
"""

router = APIRouter()


@router.get("/openapi.json", include_in_schema=False, **asks(Action.READ))
def get_document(request: Request) -> dict[str, Any]:
    """This document."""
    app: FastAPI = request.app
    return document_of(app)


def document_of(app: FastAPI) -> dict[str, Any]:
    """The document of ``app``; summaries are the first sentences of the descriptions."""
    document = app.openapi()
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["token"] = {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of `stackctl token create`, or that of STACK_HOME/secrets/admin.token.",
    }
    document["security"] = [{"token": []}]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            operation["summary"] = str(operation.get("description", "")).splitlines()[0].rstrip(".")
            if path == "/health":
                operation["security"] = []
    return document
