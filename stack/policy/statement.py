"""What an approver signs: one request, as canonical JSON and a newline. Pure.

The request's random id and its end stand in it, so a signature is good for one request and until then, whatever is
handed in again later. Rules of evolution: another content is another ``v``; the bytes of an old one never change.
"""

from __future__ import annotations

from stack.core.canonical import canonical
from stack.core.clock import stamp
from stack.store.approval_rows import RequestRow

NAMESPACE = "approval@inference-stack"
"""OpenSSH's signature namespace (``ssh-keygen -Y sign -n``): a signature made for anything else counts for nothing."""


def statement(request: RequestRow) -> bytes:
    """The bytes that ``ssh-keygen -Y sign -n approval@inference-stack`` is given."""
    said = {
        "kind": "inference-stack approval",
        "v": 1,
        "request": str(request.id),
        "change": request.change,
        "action": request.action.value,
        "gate": request.gate,
        "environment": request.environment,
        "target": request.target,
        "plan": str(request.plan),
        "policy": str(request.policy),
        "risk": request.risk.value,
        "requester": request.requester,
        "expires_at": stamp(request.expires_at),
    }
    return canonical(said) + b"\n"
