"""The request bodies of the admin API: strict types, unknown fields refused, no control characters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from stack.core.errors import InvalidInput
from stack.core.names import ChangeId


def _change_id(text: str) -> str:
    try:
        return str(ChangeId(text))
    except InvalidInput as error:
        raise ValueError(error.message) from error


PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
Text = Annotated[str, Field(min_length=1, max_length=500, pattern=PRINTABLE)]
PathText = Annotated[str, Field(min_length=1, max_length=4096, pattern=PRINTABLE)]
Environment = Annotated[str, Field(max_length=40, pattern=r"^[a-z][a-z0-9-]*$")]
Change = Annotated[str, AfterValidator(_change_id)]
Pause = Annotated[float, Field(ge=0, le=300, allow_inf_nan=False)]
Role = Annotated[str, Field(max_length=40, pattern=r"^[a-z][a-z0-9._-]*$")]


class Body(BaseModel):
    """Base of all bodies. ``claimed`` is what the client says of itself: shown, never believed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    claimed: Text | None = None


class Deploy(Body):
    """What to deploy; null means: as ``stack.yaml`` says."""

    service: Text | None = None
    model: PathText | None = None
    runtime: Text | None = None
    dry_run: bool = False
    environment: Environment | None = None
    change: Change | None = None
    accept_pause_s: Pause | None = None


class Rollback(Body):
    """Which service goes back to its last known good; null: the only one."""

    service: Text | None = None
    environment: Environment | None = None
    change: Change | None = None
    accept_pause_s: Pause | None = None


class Resume(Body):
    """Let a rollout go on."""


class Abort(Body):
    """Why a rollout is stopped."""

    reason: Text


class Register(Body):
    """A manifest on the control plane's machine."""

    path: PathText
    format: Literal["gguf", "safetensors"] = "gguf"


class CheckHosts(Body):
    """Which host to ask; null: all of them."""

    host: Text | None = None


class Scrub(Body):
    """A second copy of the content store to repair from."""

    repair_from: PathText | None = None


class Approve(Body):
    """An armored SSH signature over the statement of an open request."""

    signature: Annotated[str, Field(min_length=1, max_length=16384)]


class Reject(Body):
    """Why a change is refused."""

    reason: Text


class Revoke(Body):
    """Whose approval is taken back, and why; null: all, and the request ends."""

    person: Text | None = None
    reason: Text


class CreateToken(Body):
    """A token for somebody. ``days``: how long it is good; null: for ever."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    roles: Annotated[list[Role], Field(min_length=1, max_length=20)]
    days: Annotated[int, Field(ge=1, le=3650)] | None = 90
    change: Change | None = None


class RevokeToken(Body):
    """The change that the policies may want for it."""

    change: Change | None = None


class Acknowledge(Body):
    """Nothing but who says it."""
