"""The request bodies of the admin API: strict types, unknown fields refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1, max_length=500)]
PathText = Annotated[str, Field(min_length=1, max_length=4096)]


class Body(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Deploy(Body):
    """What to deploy; null means: as ``stack.yaml`` says."""

    service: Text | None = None
    model: PathText | None = None
    runtime: Text | None = None
    dry_run: bool = False
    actor: Text


class Rollback(Body):
    """Which service goes back to its last known good; null: the only one."""

    service: Text | None = None
    actor: Text


class Resume(Body):
    """Who lets a rollout go on."""

    actor: Text


class Abort(Body):
    """Who stops a rollout, and why."""

    actor: Text
    reason: Text


class Register(Body):
    """A manifest on the control plane's machine."""

    path: PathText
    format: Literal["gguf", "safetensors"] = "gguf"


class Scrub(Body):
    """A second copy of the content store to repair from."""

    repair_from: PathText | None = None
