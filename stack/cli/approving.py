"""What is looked at before a signature is made, and the making of it.

The control plane is not trusted here: the plan's digest is computed from the plan that was shown, the statement from
the request that was shown, and only bytes that say exactly that are signed. Keys stay in their file or agent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stack.cli.client import AdminClient, Garbled, segment
from stack.core.clock import unstamp
from stack.core.digest import Digest
from stack.core.errors import InvalidInput, Refused, StackError

if TYPE_CHECKING:
    from stack.policy.agent import AgentKey

Json = dict[str, Any]
LARGEST_SIGNATURE = 16384
_SAID_TWICE = (("environment", "environment"), ("action", "action"), ("target", "target"), ("service", "target"))


class NotWhatIsShown(Refused):
    """Nothing was signed: {detail}."""

    hint = "The control plane shows one thing and would have another signed. Do not approve; look into it."


class NothingToSign(Refused):
    """{change} has no open request for approval: {states}."""

    hint = "Run the command that needs it again: it opens a new request. See `stackctl change list`."


class WhichRequest(InvalidInput):
    """{change} has several open requests: {requests}."""

    hint = "Name the one that is meant: --request rq-..."


class WhichKey(InvalidInput):
    """It is not clear which key should sign: {detail}"""

    hint = "Give --key FILE, or --agent with --fingerprint SHA256:... (ssh-add -l shows them)."


class NoSignatureFile(InvalidInput):
    """{path} can't be read as a signature: {detail}"""

    hint = "Make it: ssh-keygen -Y sign -f KEY -n approval@inference-stack STATEMENT writes STATEMENT.sig."


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is to be approved: a request, its plan, and the bytes to sign, all of which say the same."""

    request: Json
    plan: Json
    statement: bytes


def chosen(change: str, requests: Sequence[Json], wanted: str | None) -> Json:
    """The one open request, or the wanted one of them."""
    waiting = [r for r in requests if r.get("state") == "open" and wanted in (None, r.get("request"))]
    if not waiting:
        states = ", ".join(f"{r.get('request')} is {r.get('state')}" for r in requests) or "there is none"
        raise NothingToSign(change=change, states=states)
    if len(waiting) > 1:
        raise WhichRequest(change=change, requests=", ".join(str(r.get("request")) for r in waiting))
    return waiting[0]


def subject_of(client: AdminClient, change: str, wanted: str | None, now: datetime) -> Subject:
    """Fetch it, the plan by the request's own id, and check all of it."""
    shown = client.get(f"/changes/{segment(change)}")
    name = str(chosen(change, _requests(shown), wanted).get("request"))
    if name != change:
        shown = client.get(f"/changes/{segment(name)}")
    return checked(chosen(change, _requests(shown), name), shown.get("plan_body"), now)


def _requests(shown: Json) -> list[Json]:
    requests = shown.get("requests")
    if not isinstance(requests, list) or not all(isinstance(one, dict) for one in requests):
        raise Garbled("a change without its requests")
    return requests


def checked(request: Json, plan: Any, now: datetime) -> Subject:
    """Raises NotWhatIsShown unless plan, request and statement belong together."""
    if not isinstance(plan, dict):
        raise NotWhatIsShown("the plan itself is not shown")
    found = Digest.of_value(plan)
    if found != request.get("plan"):
        raise NotWhatIsShown(f"the plan shown has the digest {found}, the request is for {request.get('plan')}")
    for name, same in _SAID_TWICE:
        if name in plan and plan[name] != request.get(same):
            raise NotWhatIsShown(f"the plan says {name} {plan[name]!r}, the request {request.get(same)!r}")
    expected = _statement(request)
    if str(request.get("statement", "")).encode() != expected:
        raise NotWhatIsShown("the statement to sign does not say exactly what the request says")
    if now >= unstamp(str(request["expires_at"])):
        raise NothingToSign(change=request.get("change"), states=f"{request.get('request')} is expired")
    return Subject(request=request, plan=plan, statement=expected)


def _statement(request: Json) -> bytes:
    """The statement, made here from the request as it is shown."""
    from stack.policy.statement import statement
    from stack.store.approval_rows import RequestRow

    filled = {"reason": "", "used_by": "", "updated_at": request.get("created_at"), **request}
    try:
        return statement(RequestRow.from_row({**filled, "id": request["request"]}))
    except (KeyError, TypeError, ValueError, StackError) as error:
        raise NotWhatIsShown(f"the request shown can't be understood ({error})") from error


def sign_by_file(subject: Subject, path: Path, passphrase: Callable[[], str] | None) -> str:
    """The signature by a private key file."""
    from stack.policy.signing import sign_with_file
    from stack.policy.statement import NAMESPACE

    return sign_with_file(path, subject.statement, NAMESPACE, passphrase)


def sign_by_agent(subject: Subject, fingerprint: str | None) -> str:
    """The signature by the agent's only key, or by the one of this fingerprint."""
    from stack.policy.agent import agent_keys, sign_with_agent
    from stack.policy.statement import NAMESPACE

    place = os.environ.get("SSH_AUTH_SOCK", "")
    if not place:
        raise WhichKey("no ssh-agent is there (SSH_AUTH_SOCK is not set).")
    key = selected(agent_keys(place), fingerprint)
    return sign_with_agent(place, key.blob, subject.statement, NAMESPACE)


def selected(keys: Sequence[AgentKey], fingerprint: str | None) -> AgentKey:
    """The only key, or the one of this fingerprint."""
    fitting = [key for key in keys if fingerprint in (None, key.fingerprint)]
    if len(fitting) != 1:
        held = "; ".join(f"{key.fingerprint} {key.comment}".strip() for key in keys) or "no key at all"
        raise WhichKey(f"the agent holds {held}")
    return fitting[0]


def signature_in(path: Path, subject: Subject) -> str:
    """A signature made elsewhere, looked at before it is handed in."""
    from stack.policy.sshsig import verify
    from stack.policy.statement import NAMESPACE

    try:
        with path.open("rb") as file:
            armored = file.read(LARGEST_SIGNATURE + 1).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise NoSignatureFile(str(error), path=path) from error
    if len(armored) > LARGEST_SIGNATURE:
        raise NoSignatureFile("it is too long", path=path)
    verify(armored, subject.statement, NAMESPACE)
    return armored
