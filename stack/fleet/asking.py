"""Asks a host what it is and has, through the door; for preflight and for people alike."""

from __future__ import annotations

import secrets
from typing import Protocol

from stack.core.clock import Clock
from stack.core.errors import Unavailable
from stack.core.names import OperationId
from stack.fleet.facts import Facts, read_facts
from stack.fleet.values import Host, Operation, OperationResult

PATIENCE_S = 60


class HostSilent(Unavailable):
    """Host {host} does not say what it is and has: {status}: {detail}"""

    hint = "stackctl host check HOST asks it again; docs/fleet.md says what a host needs."


class Door(Protocol):
    """What is needed of the door to Ansible."""

    def run(self, op: Operation) -> OperationResult:
        """Do the operation."""


def ask_facts(door: Door, host: Host, clock: Clock) -> Facts:
    """What the host says of itself now. Raises HostSilent, or FactsUnreadable for nonsense."""
    operation = Operation(
        op_id=OperationId(f"facts.{secrets.token_hex(6)}"),
        epoch=0,
        host=host,
        playbook="facts.yml",
        timeout_s=PATIENCE_S,
    )
    result = door.run(operation)
    if not result.succeeded:
        raise HostSilent(result.message or "no answer", host=host.name, status=result.status)
    return read_facts(host.name, result.observed, clock.now())


def memory_for_weights(facts: Facts, group: str) -> int | None:
    """Bytes that one engine can have: the freest accelerator's on a ``gpu`` host, else main memory; None: unknown."""
    if group == "gpu":
        return max((device.free for device in facts.accelerators or () if device.free is not None), default=None)
    return facts.memory_available
