"""From what the host recorded to the outcome of an operation. Pure.

1. An unreachable host or a refused epoch is that.
2. A report that the play's last task brought from the host decides: every step it made was there ``ALREADY``, or not.
3. No report (lost, timed out, killed): the host is asked again, and only its fence's record of the last step counts.
4. Anything else has failed. Silence is never success.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stack.fleet.events import Account
from stack.fleet.said import NotAnObservation, observation, plain_lines, step_state
from stack.fleet.values import Host, OperationResult, Status

_NO_PROOF = "Host key verification failed"
_LAST_STEP = {"deploy.yml": "start", "place.yml": "place", "rollback.yml": "start", "drain.yml": "stop"}


def reported(account: Account, rc: int) -> OperationResult | None:
    """Rules 1 and 2; None when the host must be asked again."""
    facts: dict[str, Any] = {"failed_task": account.failed_task, "message": account.message}
    if account.unreachable:
        return OperationResult(status="unreachable", **facts)
    if not account.report or rc != 0 or account.failed_task:
        return None
    try:
        observed = observation(account.report.get("observed"))
    except NotAnObservation as error:
        return OperationResult(status="failed", message=f"what the host says of itself can't be believed: {error}")
    told = account.report.get("steps")
    steps = [str(step) for step in told.values() if step] if isinstance(told, dict) else []
    status: Status = "already" if steps and all(step.startswith("ALREADY") for step in steps) else "done"
    return OperationResult(status=status, observed=observed, would=plain_lines(account.report.get("would", [])))


def asked_again(playbook: str, account: Account, reason: str, observed: Mapping[str, Any]) -> OperationResult:
    """Rules 3 and 4, with what the second look saw (an observation; empty if it saw nothing)."""
    recorded = step_state(observed, _LAST_STEP.get(playbook, "")) == "done"
    if recorded and not account.failed_task:
        return OperationResult(
            status="done", observed=dict(observed), message=f"{reason}; the host recorded it as done"
        )
    status: Status = "fenced" if account.fenced else "failed"
    return OperationResult(
        status=status, observed=dict(observed), failed_task=account.failed_task, message=account.message or reason
    )


def advised(result: OperationResult, host: Host) -> OperationResult:
    """With what to do, where SSH did not log in because the host's key is another one or is not known."""
    if result.status != "unreachable" or _NO_PROOF not in result.message:
        return result
    ports = "" if host.port == 22 else f"-p {host.port} "
    advice = (
        f"Compare the fingerprint of what `ssh-keyscan {ports}{host.known_as or host.address}` prints with the one that"
        " the host's own console shows (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub). If it is the same, put that"
        " line into STACK_HOME/known_hosts, in place of an older one: see docs/fleet.md"
    )
    return replace(result, message=f"{result.message} {advice}")
