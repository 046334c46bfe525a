"""From what the host recorded to the outcome of an operation. Pure.

1. An unreachable host or a refused epoch is that.
2. A report that the play's last task brought from the host decides: every step it made was there ``ALREADY``, or not.
3. No report (lost, timed out, killed): the host is asked again, and only its fence's record of the last step counts.
4. Anything else has failed. Silence is never success.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stack.fleet.events import Account
from stack.fleet.values import OperationResult, Status

_LAST_STEP = {"deploy.yml": "start", "rollback.yml": "start", "drain.yml": "stop"}
_PUBLIC = ("replicas", "epoch", "operation", "service_manager", "supervised", "facts")


def public(observed: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an observation that callers are shown."""
    return {key: observed[key] for key in _PUBLIC if key in observed}


def reported(account: Account, rc: int) -> OperationResult | None:
    """Rules 1 and 2; None when the host must be asked again."""
    facts: dict[str, Any] = {"failed_task": account.failed_task, "message": account.message}
    if account.unreachable:
        return OperationResult(status="unreachable", **facts)
    if not account.report or rc != 0 or account.failed_task:
        return None
    steps = [str(step) for step in account.report.get("steps", {}).values() if step]
    status: Status = "already" if steps and all(step.startswith("ALREADY") for step in steps) else "done"
    would = tuple(str(line) for line in account.report.get("would", []))
    return OperationResult(status=status, observed=public(account.report["observed"]), would=would)


def asked_again(playbook: str, account: Account, reason: str, observed: Mapping[str, Any]) -> OperationResult:
    """Rules 3 and 4, with what the second look saw (empty if it saw nothing)."""
    steps = (observed.get("operation") or {}).get("steps", {})
    recorded = steps.get(_LAST_STEP.get(playbook, ""), {}).get("state") == "done"
    if recorded and not account.failed_task:
        return OperationResult(
            status="done", observed=public(observed), message=f"{reason}; the host recorded it as done"
        )
    status: Status = "fenced" if account.fenced else "failed"
    return OperationResult(
        status=status, observed=public(observed), failed_task=account.failed_task, message=account.message or reason
    )
